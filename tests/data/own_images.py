"""Small data sets of images, as people keep them, for the tests of their readers."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ensemble_bench.data import DataSource

RNG = np.random.default_rng(0)
Pixels = NDArray[np.uint8]


def pixels(*shape: int) -> Pixels:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: Pixels, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(image)
    (made if mode is None else made.convert(mode)).save(path)


def flat(
    root: Path, *, classes: int = 3, each: int = 20, shape: tuple[int, ...] = (12, 10, 3), end: str = "png"
) -> Path:
    for label in range(classes):
        for i in range(each):
            save(root / f"class{label}" / f"{i}.{end}", pixels(*shape))
    return root


def split(root: Path, parts: dict[str, int], shape: tuple[int, ...] = (9, 9, 3)) -> Path:
    for part, each in parts.items():
        flat(root / part, each=each, shape=shape)
    return root


def images_of(source: DataSource) -> dict[str, torch.Tensor]:
    return {part: source.split(part).images for part in ("train", "validation", "test")}


def arrays(n: int = 40, test: int = 10, shape: tuple[int, ...] = (9, 8, 3)) -> dict[str, NDArray[np.generic]]:
    return {
        "x_train": pixels(n, *shape),
        "y_train": np.arange(n) % 4,
        "x_test": pixels(test, *shape),
        "y_test": np.arange(test) % 4,
    }


def write_npz(path: Path, **content: object) -> str:
    np.savez(path, **content)
    return f"npz:{path}"


def encoded(image: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def write_parquet(path: Path, *, struct: bool = True, told: object = None, n: int = 30, **columns: object) -> Pixels:
    """A column of images called photo, unless `columns` has others; returns the images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    images = pixels(n, 8, 9, 3)
    cells = [{"bytes": encoded(x), "path": None} if struct else encoded(x) for x in images]
    table = pa.table({"photo": cells, **(columns or {"kind": [i % 3 for i in range(n)]})})
    if told is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": told}})})
    pq.write_table(table, path)
    return images
