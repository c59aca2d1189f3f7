"""Small data sets of random images, written in every layout that CIFAR-10 comes in."""

import io
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Images = dict[str, tuple[Pixels, Labels]]


def random_images(train: int = 100, test: int = 30, seed: int = 0) -> Images:
    """Random images (n, 3, 32, 32); labels hold every class equally often, in random order."""
    rng = np.random.default_rng(seed)
    return {
        split: (rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), rng.permutation(np.arange(n) % 10))
        for split, n in (("train", train), ("test", test))
    }


def png(pixels: Pixels, mode: str = "RGB", kind: str = "PNG") -> bytes:
    """One image, (channel, row, column), as an encoded file."""
    out = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).convert(mode).save(out, kind)
    return out.getvalue()


def write_batches(folder: Path, images: Images, protocol: int = 2) -> Path:
    """The official layout; `folder` itself becomes the batches' folder."""
    folder.mkdir(parents=True)
    pixels, labels = images["train"]
    parts = zip(np.array_split(pixels, 5), np.array_split(labels, 5), strict=True)
    files = {f"data_batch_{number}": part for number, part in enumerate(parts, 1)} | {"test_batch": images["test"]}
    for name, (x, y) in files.items():
        write_batch(folder / name, {"data": x.reshape(len(x), 3072), "labels": y.tolist()}, protocol)
    return folder


def write_batch(path: Path, content: object, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def write_parquet(folder: Path, images: Images, *, image: str = "img", shards: int = 1, struct: bool = True) -> Path:
    """The hub's layout, with lossless images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for split, (pixels, labels) in images.items():
        rows = list(zip(pixels, labels.tolist(), strict=True))
        size = -(-len(rows) // shards)
        for shard in range(shards):
            part = rows[shard * size : (shard + 1) * size]
            encoded = [{"bytes": png(x), "path": None} if struct else png(x) for x, _ in part]
            table = pa.table({image: encoded, "label": [y for _, y in part]})
            pq.write_table(table, folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet")
    return folder


def write_folders(root: Path, images: Images, names: tuple[str, ...] = CLASSES) -> Path:
    """A folder a class; files are numbered through, so that their numbers keep the order."""
    for split, (pixels, labels) in images.items():
        for row, (x, y) in enumerate(zip(pixels, labels, strict=True)):
            path = root / split / names[y] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(x))
    return root
