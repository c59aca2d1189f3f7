"""Data that a caller hands over in Python: a DataSource, or images and labels as arrays or tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble_bench.data.arrange import ALL, clean_name
from ensemble_bench.data.arrays import from_arrays
from ensemble_bench.data.source import DataSource
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.registry.terms import SPLITS, TRAIN

ARRAYS = "arrays"
"""The data set and, unless told otherwise, the name of data in memory."""
EXPECTED = "a DataSource, images and labels as (x, y), or {'train': (x, y), 'test': (x, y)}"


def given_source(data: Any, name: str | None = None, *, pair: str = ALL) -> DataSource:
    """The data set of what a caller gives: itself, or images and labels in memory, called `name`.

    A pair (x, y) is of the part `pair`: "test" to be evaluated on in its order, "all" to be split as files are. Parts
    with images for training are arranged as files are, too, so that they are the same data whatever is done with them.
    Raises InvalidValueError for what is neither, and what `from_arrays` raises.
    """
    if isinstance(data, DataSource):
        return data
    if isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], str):
        parts: Mapping[str, Any] = {pair: data}
    elif isinstance(data, Mapping) and data:
        parts = data
    else:
        told = f"{data!r}" if isinstance(data, str | Path) else f"a {type(data).__name__}"
        named = "; a data set by its name goes in dataset" if isinstance(data, str | Path) else ""
        raise InvalidValueError(f"data is {told}: expected {EXPECTED}{named}")
    if ALL in parts and len(parts) > 1:
        raise InvalidValueError(f"data has {ALL!r} beside splits: expected {', '.join(SPLITS)}, or {ALL!r} alone")
    for part, both in parts.items():
        if part not in (*SPLITS, ALL):
            raise InvalidValueError(f"data has a split {part!r}: expected {', '.join(SPLITS)}")
        if not isinstance(both, tuple | list) or len(both) != 2:
            raise InvalidValueError(f"data[{part!r}] is a {type(both).__name__}: expected images and labels, (x, y)")
    return from_arrays(
        {part: both[0] for part, both in parts.items()},
        {part: both[1] for part, both in parts.items()},
        where="data",
        dataset=ARRAYS,
        name=ARRAYS if name is None else clean_name(name, ARRAYS),
        in_order=not {ALL, TRAIN} & parts.keys(),
    )
