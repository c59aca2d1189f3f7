"""CIFAR-100 (Krizhevsky, 2009) from the official archive or from hub parquet, with its 100 fine classes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ensemble_bench.data.arrange import Arranged, arrange, classes_of, clean_name, labels_of, source_of, splits_of
from ensemble_bench.data.parquet import read_parquet
from ensemble_bench.data.source import DataSource, given_folder
from ensemble_bench.data.unpickle import load_arrays
from ensemble_bench.errors import DataError
from ensemble_bench.registry.terms import TEST, TRAIN

BATCHES = "cifar-100-python"
CLASSES = 100
# The files' published sums, as torchvision.datasets.CIFAR100 lists them.
OFFICIAL_MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"


def open_cifar100(data_dir: str | Path | None = None) -> DataSource:
    """Open CIFAR-100 from `data_dir`, else from the folder in ENSEMBLE_BENCH_DATA: cifar-100-python/, or parquet.

    The official files, recognised by their content, are named "cifar100"; any other copy is named by its folder.
    Presets train it with the settings of CIFAR-10. Raises DataError for data that are missing or damaged.
    """
    root = given_folder(data_dir)
    if root is None:
        raise DataError(f"cifar100 needs its folder, by --data-dir or ENSEMBLE_BENCH_DATA: unpack {URL} there")
    try:
        folder = next((f for f in (root / BATCHES, root) if (f / "train").is_file() or (f / "test").is_file()), None)
        official = folder is not None and _is_official(folder)
        arranged, classes = _batches(folder) if folder is not None else _parquet(root)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    if len(classes) != CLASSES or arranged.images[TEST].shape[1:] != (32, 32, 3):
        shape = "x".join(map(str, arranged.images[TEST].shape[1:]))
        raise DataError(f"{root} holds {len(classes)} classes of {shape} images: CIFAR-100 has {CLASSES} of 32x32x3")
    name = "cifar100" if official else clean_name(root.name, "unofficial")
    return source_of(arranged, dataset="cifar100", name=name, classes=classes)


def _parquet(root: Path) -> tuple[Arranged, tuple[str, ...]]:
    if not root.is_dir() or not next(root.rglob("*.parquet"), None):
        raise DataError(f"data folder {root} holds no CIFAR-100: expected {BATCHES}/, or parquet; {URL} has it")
    return read_parquet(root, resize=None, crop=None)


def _batches(folder: Path) -> tuple[Arranged, tuple[str, ...]]:
    missing = [name for name in ("train", "test", "meta") if not (folder / name).is_file()]
    if missing:
        raise DataError(f"data folder {folder} is incomplete: it lacks {', '.join(missing)}")
    names = load_arrays(folder / "meta", "list of CIFAR-100's classes").get("fine_label_names")
    if not isinstance(names, list):
        raise DataError(f"{folder / 'meta'} holds no fine_label_names")
    read = {part: _batch(folder / part) for part in (TRAIN, TEST)}
    labels = {part: y for part, (_, y) in read.items()}
    classes = classes_of(labels, [str(name) for name in names], str(folder))
    chosen = splits_of(labels, str(folder))
    images = {split: torch.from_numpy(read[one.part][0][one.rows]) for split, one in chosen.items()}
    return arrange(chosen, labels, images), classes


def _batch(path: Path) -> tuple[Any, Any]:
    batch = load_arrays(path, "CIFAR-100 batch")
    data = batch.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise DataError(f"{path} holds no images: expected data, an array of uint8 with 3072 bytes a row")
    labels = labels_of(batch.get("fine_labels"), str(path))
    if len(labels) != len(data):
        raise DataError(f"{path} holds {len(data)} images but {len(labels)} labels")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _is_official(folder: Path) -> bool:
    files = [(folder / name, md5) for name, md5 in OFFICIAL_MD5.items()]
    return all(
        path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5
        for path, md5 in files
    )
