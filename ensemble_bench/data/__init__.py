"""Data sets: images in [0, 1], and a fingerprint of the whole content."""

from pathlib import Path
from pkgutil import resolve_name

from jaxtyping import Float, Int64
from torch import Tensor

from ensemble_bench.data.source import DataSource, ImageSet
from ensemble_bench.kinds import takes
from ensemble_bench.registry import resolve
from ensemble_bench.registry.places import OPENERS, check_data, place_of

__all__ = ["DataSource", "ImageSet", "load", "open_source"]


@takes
def open_source(name: str, data_dir: str | Path | None = None) -> DataSource:
    """Open data set `name`: a registered one, such as "cifar10" from `data_dir`, else from ENSEMBLE_BENCH_DATA.

    Or one of your own by its place: "folder:PATH", "npz:PATH" or "parquet:PATH" (docs/data.md). Raises UnknownNameError
    for another name and DataError for data that are missing, incomplete or damaged.
    """
    check_data(name)
    if (place := place_of(name)) is not None:
        mine: DataSource = resolve_name(OPENERS[place.kind])(place)
        return mine
    source: DataSource = resolve("data set", name)(data_dir)
    return source


@takes
def load(
    name: str, split: str = "test", n: int | None = None, data_dir: str | Path | None = None
) -> tuple[Float[Tensor, "n channel row column"], Int64[Tensor, "n"]]:
    """Return the first `n` images of a split (default: all) as float32 in [0, 1], and their labels.

    Raises what open_source raises, and InvalidValueError for an unknown split or more images than there are.
    """
    images = open_source(name, data_dir).split(split)
    return (images if n is None else images.first(n)).batch(slice(None))
