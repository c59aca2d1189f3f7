"""The layouts of CIFAR-10 on a disk: pickled batches, hub parquet, folders of image files."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ensemble_bench.data.decode import bytes_in, opened
from ensemble_bench.data.unpickle import first_line, load_arrays
from ensemble_bench.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
BATCHES = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"
ENDINGS = (".png", ".jpg", ".jpeg")
EXPECTED = f"{BATCHES}/, or train-*.parquet and test-*.parquet, or train/<class>/*.png and test/<class>/*.png"

Pixels = UInt8[Tensor, "n 3 32 32"]
Labels = Int64[Tensor, "n"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of both splits, and the function that reads them, in the order of `train` and `test`."""

    kind: str
    root: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    read: Callable[[Sequence[Path]], tuple[Pixels, Labels]]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of both splits."""
        return self.train + self.test


def find_layout(root: Path) -> Layout:
    """Return the layout of CIFAR-10 in `root`; raises DataError if it is not there or incomplete."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {root} {problem}: it must hold {EXPECTED}")
    for find in (_find_batches, _find_parquet, _find_folders):
        layout = find(root)
        if layout is not None:
            return layout
    archives = sorted(root.glob("cifar-10-python.tar*"))
    hint = f"; unpack {archives[0].name} there" if archives else ""
    raise DataError(f"data folder {root} holds no CIFAR-10: expected {EXPECTED}{hint}")


def _incomplete(root: Path, missing: Iterable[str]) -> DataError:
    return DataError(f"data folder {root} is incomplete: it lacks {', '.join(missing)}")


# ── cifar-10-batches-py: the official layout ──


def _find_batches(root: Path) -> Layout | None:
    names = (*TRAIN_BATCHES, TEST_BATCH)
    if not (root / BATCHES).is_dir() and not any((root / name).is_file() for name in names):
        return None
    folder = root / BATCHES if (root / BATCHES).is_dir() else root
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise _incomplete(folder, missing)
    train = tuple(folder / name for name in TRAIN_BATCHES)
    return Layout(kind="batches", root=folder, train=train, test=(folder / TEST_BATCH,), read=_read_batches)


def _read_batches(paths: Sequence[Path]) -> tuple[Pixels, Labels]:
    images, labels = zip(*map(_read_batch, paths), strict=True)
    return torch.from_numpy(np.concatenate(images)), torch.cat(labels)


def _read_batch(path: Path) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Labels]:
    batch = load_arrays(path)
    data = batch.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
        raise DataError(f"{path} holds no images: expected data, an array of uint8 with a row an image")
    if data.shape[1] != 3 * SIDE * SIDE:
        raise DataError(
            f"images in {path} have {data.shape[1]} bytes: expected {3 * SIDE * SIDE} (3 x {SIDE} x {SIDE})"
        )
    labels = _check_labels(batch.get("labels"), path)
    if len(labels) != len(data):
        raise DataError(f"{path} holds {len(data)} images but {len(labels)} labels")
    return data.reshape(-1, 3, SIDE, SIDE), labels


# ── parquet, as the Hugging Face hub keeps it ──


def _find_parquet(root: Path) -> Layout | None:
    for folder in (root, root / "data", root / "plain_text"):
        shards = {split: _shards(folder, split) for split in ("train", "test")}
        if any(shards.values()):
            missing = [f"{split}-*.parquet" for split, files in shards.items() if not files]
            if missing:
                raise _incomplete(folder, missing)
            return Layout(kind="parquet", root=folder, train=shards["train"], test=shards["test"], read=_read_parquet)
    return None


def _shards(folder: Path, split: str) -> tuple[Path, ...]:
    """Return the parquet files of a split in order; raises DataError if a numbered one is missing."""
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    numbered = [match for path in shards if (match := re.match(rf"{split}-(\d+)-of-(\d+)", path.name))]
    if numbered:
        there, total = {int(match[1]) for match in numbered}, max(int(match[2]) for match in numbered)
        missing = [f"{split}-{i:05d}-of-{total:05d}.parquet" for i in range(total) if i not in there]
        if missing:
            raise _incomplete(folder, missing)
    return tuple(shards)


def _read_parquet(paths: Sequence[Path]) -> tuple[Pixels, Labels]:
    # Empty tensors in front, so that a split of empty files is no error here; the caller checks the number of images.
    images, labels = [torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)], [torch.empty(0, dtype=torch.int64)]
    for path in paths:
        row = 0
        for table in _parquet_tables(path):
            images.append(torch.from_numpy(_decode_all(_encoded(table, path, row))))
            labels.append(_check_labels(table.column("label").to_pylist(), path, row))
            row += len(table)
    return torch.cat(images), torch.cat(labels)


def _parquet_tables(path: Path) -> Iterator[Any]:
    """Yield the rows of a file in tables of a few thousand, with the columns image and label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            image = next((name for name in ("img", "image") if name in columns), None)
            if image is None or "label" not in columns:
                raise DataError(f"{path} has columns {', '.join(columns)}: expected img or image, and label")
            for batch in file.iter_batches(batch_size=4096, columns=[image, "label"]):
                yield pa.table({"image": batch.column(image), "label": batch.column("label")})
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {path} as parquet: {first_line(error)}") from error


def _encoded(table: Any, path: Path, start: int) -> Iterator[tuple[str, bytes]]:
    """Yield (place, encoded bytes) of every image in a table whose first row is row `start`."""
    for row, value in enumerate(table.column("image").to_pylist(), start):
        place = f"image in row {row} of {path}"
        yield place, bytes_in(value, place)


# ── train/<class>/*.png and test/<class>/*.png ──


def _find_folders(root: Path) -> Layout | None:
    there = [split for split in ("train", "test") if (root / split).is_dir()]
    if not there:
        return None
    if len(there) == 1:
        raise _incomplete(root, ["test/" if there == ["train"] else "train/"])
    classes = {split: _class_folders(root / split) for split in there}
    if classes["train"] != classes["test"]:
        odd = ", ".join(sorted(set(classes["train"]) ^ set(classes["test"])))
        raise DataError(f"train/ and test/ in {root} differ in their classes: {odd} in only one of them")
    label_of = _label_of(classes["train"], root)
    skipped: list[str] = []
    train, test = (_image_files(root / split, classes[split], skipped) for split in ("train", "test"))
    if skipped:
        files = "1 file that is" if len(skipped) == 1 else f"{len(skipped)} files that are"
        warnings.warn(
            f"data folder {root}: skips {files} hidden or no .png or .jpg, such as {skipped[0]}", stacklevel=2
        )
    return Layout(kind="folders", root=root, train=train, test=test, read=partial(_read_files, label_of=label_of))


def _natural(name: str) -> tuple[tuple[int, ...], str]:
    """Sort key that puts names in the order of the numbers in them, wherever they stand: dog_9 before cat_10."""
    return tuple(int(number) for number in re.findall(r"\d+", name)), name


def _class_folders(folder: Path) -> list[str]:
    return sorted((p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name)), key=_natural)


def is_hidden(name: str) -> bool:
    """Whether a name is one that systems give to what they keep beside the user's files."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _label_of(names: Sequence[str], root: Path) -> dict[str, int]:
    """Return the label of every class folder: by CIFAR-10's class names, else the place in sorted order."""
    if len(names) != len(CLASSES):
        listed = ", ".join(names) or "none"
        raise DataError(f"train/ in {root} holds {len(names)} class folders ({listed}): expected {', '.join(CLASSES)}")
    strange = [name for name in names if name.lower() not in CLASSES]
    if 0 < len(strange) < len(CLASSES):
        raise DataError(f"train/ in {root} has class folder {strange[0]!r}: expected {', '.join(CLASSES)}")
    if strange:
        return {name: label for label, name in enumerate(names)}
    return {name: CLASSES.index(name.lower()) for name in names}


def _image_files(folder: Path, classes: Sequence[str], skipped: list[str]) -> tuple[Path, ...]:
    """Return the image files of a split, by the numbers in their names and not class by class; add others to `skipped`.

    The first n images are then a fair sample, and files that are numbered through (as exports of the official
    batches are) come in their original order.
    """
    keyed: list[tuple[tuple[tuple[int, ...], str], str]] = []
    for name in classes:
        keyed += [(_natural(file), f"{name}/{file}") for file in images_in(folder, name, skipped)]
    return tuple(folder / path for _, path in sorted(keyed))


def images_in(folder: Path, name: str, skipped: list[str]) -> list[str]:
    """The names of the image files of class `name`, sorted; adds those of others to `skipped`, with their folders.

    Raises DataError where there is none.
    """
    there = sorted(os.listdir(folder / name))
    files = [file for file in there if file.lower().endswith(ENDINGS) and not is_hidden(file)]
    skipped += [f"{folder.name}/{name}/{file}" for file in sorted({*there} - {*files})]
    if not files:
        raise DataError(f"class folder {folder / name} holds no .png or .jpg files")
    return files


def _read_files(paths: Sequence[Path], *, label_of: Mapping[str, int]) -> tuple[Pixels, Labels]:
    images = _decode_all((f"image {path}", path.read_bytes()) for path in paths)
    return torch.from_numpy(images), torch.tensor([label_of[path.parent.name] for path in paths])


# ── shared by the layouts ──


def _decode_all(encoded: Iterable[tuple[str, bytes]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode PNG or JPEG images, given as (place, bytes), into (n, 3, 32, 32); raises DataError for a bad one."""
    images = [_decode(place, content) for place, content in encoded]
    shape = (len(images), SIDE, SIDE, 3)
    pixels = np.frombuffer(b"".join(images), dtype=np.uint8).reshape(shape)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _decode(place: str, content: bytes) -> bytes:
    def pixels(image: Any) -> bytes | str:
        # Size and mode are in the header: an image that does not fit is never decoded.
        if image.size == (SIDE, SIDE) and image.mode in ("RGB", "L", "P"):
            return bytes(image.convert("RGB").tobytes())
        return f"{image.size[0]}x{image.size[1]} {image.mode}"

    found = opened(place, content, pixels)
    if isinstance(found, str):
        raise DataError(f"{place} is {found}: expected {SIDE}x{SIDE} RGB")
    return found


def _check_labels(labels: object, path: Path, start: int = 0) -> Labels:
    """Return labels, the first being that of row `start`, as int64; raises DataError unless all are 0 to 9."""
    most = len(CLASSES) - 1
    array = np.asarray(labels) if isinstance(labels, list | np.ndarray) and len(labels) else np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"labels in {path} are not whole numbers: expected 0 to {most} for every image")
    wrong = np.flatnonzero((array < 0) | (array > most))
    if len(wrong):
        row = wrong[0]
        raise DataError(f"label {array[row]} in row {start + row} of {path} is out of range: CIFAR-10 has 0 to {most}")
    return torch.from_numpy(array.astype(np.int64))
