"""Make a DataSource of a user's images: splits where there are none, statistics, and the settings it trains with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemble_bench.data.source import SPLIT_SEED, DataSource, Rows, fingerprint, stratified_draw
from ensemble_bench.errors import DataError
from ensemble_bench.registry import names
from ensemble_bench.registry.places import Place
from ensemble_bench.registry.terms import SPLITS, TEST, TRAIN, VALIDATION

ALL = "all"
"""The part of images that came without splits."""
# Names that parts have in folders and files.
PARTS = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "testing": TEST,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
}
# Folders and files of the official images, whose names would make a copy look like these.
ARCHIVES = ("cifar-10-batches-py", "cifar-10-python", "cifar-100-python")
# More than any data set has: every class gets a name, and a network an output.
MOST_CLASSES = 100_000
MOST_VALIDATION = 5_000
# Images looked at together for sums and hashes: no copy of them all is made.
CHUNK = 4096

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The images of a split: positions in a part, in the order in which they are kept."""

    part: str
    rows: Labels


def splits_of(parts: Mapping[str, Labels], where: str, *, in_order: bool = False) -> dict[str, Chosen]:
    """Which images of which part each split holds, from the labels of "train", "validation" and "test", or of "all".

    Without "test", "validation" stands for it, as in ImageNet; of "all", a fifth is drawn for testing. Without
    "validation", a tenth of what is trained on is drawn, at most 5,000. All draws have the parts' class shares and
    depend on the labels alone. Images for testing alone make a data set to evaluate on. Test images that lie class by
    class are put in a random order, always the same, because the first n would be those of a few classes, unless they
    are wanted `in_order`.
    """
    test, training = (TEST, VALIDATION), TRAIN
    found: dict[str, Chosen] = {}
    if ALL in parts:
        drawn, rest = _drawn(parts[ALL], max(len(parts[ALL]) // 5, 1))
        found[TEST], training = Chosen(part=ALL, rows=drawn), ALL
    else:
        part = next((name for name in test if name in parts), None)
        if part is None:
            raise DataError(f"{where} holds images for training alone: expected test or val images too")
        found[TEST] = Chosen(part=part, rows=np.arange(len(parts[part])) if in_order else _fair(parts[part]))
        rest = np.arange(len(parts.get(TRAIN, ())))
    if not len(found[TEST].rows):
        raise DataError(f"{where} holds no test images")
    if found[TEST].part != VALIDATION and VALIDATION in parts:
        found[VALIDATION] = Chosen(part=VALIDATION, rows=_fair(parts[VALIDATION]))
        if not len(parts[VALIDATION]):
            raise DataError(f"{where} holds no validation images")
    if training in parts:
        if len(rest) < (fewest := 1 if VALIDATION in found else 2):
            raise DataError(f"{where} holds {len(rest)} images for training: expected at least {fewest}")
        if VALIDATION not in found:
            size = min(max(len(rest) // 10, 1), MOST_VALIDATION)
            drawn, left = _drawn(parts[training][rest], size)
            found[VALIDATION], rest = Chosen(part=training, rows=rest[drawn]), rest[left]
        found[TRAIN] = Chosen(part=training, rows=rest)
    return {split: found[split] for split in SPLITS if split in found}


def _drawn(labels: Labels, size: int) -> tuple[Labels, Labels]:
    drawn, rest = stratified_draw(torch.from_numpy(labels), size)
    return drawn.numpy(), rest.numpy()


def _fair(labels: Labels) -> Labels:
    grouped = len(labels) > 1 and bool((np.diff(labels) >= 0).all())
    n = len(labels)
    return np.random.RandomState(SPLIT_SEED).permutation(n) if grouped else np.arange(n)


@dataclass(frozen=True, kw_only=True, eq=False)
class Arranged:
    """The images of every split, (n, row, column, channel), labels and ids by split, and their statistics."""

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    ids: Mapping[str, Tensor]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: int = 255

    @classmethod
    def of(
        cls, images: Mapping[str, Tensor], labels: Mapping[str, Tensor], ids: Mapping[str, Tensor], scale: int
    ) -> "Arranged":
        """Splits with the fingerprint of them all, and mean and deviation of what is trained on (else of the test)."""
        mean, std = statistics(images[TRAIN if TRAIN in images else TEST], scale)
        parts = {split: (images[split].permute(0, 3, 1, 2), labels[split]) for split in images}
        digest = fingerprint(parts, scale)
        return cls(images=images, labels=labels, ids=ids, fingerprint=digest, mean=mean, std=std, scale=scale)

    def read(self, split: str) -> Rows:
        """A split, of which nothing is copied; raises DataError for one that is not there."""
        if split not in self.images:
            raise DataError(f"there are no {split} images: this data set is for evaluation alone")
        # Kept channels-last, as images are decoded and as training wants them.
        images = self.images[split].permute(0, 3, 1, 2)
        return Rows(images=images, labels=self.labels[split], ids=self.ids[split])


def arrange(
    chosen: Mapping[str, Chosen], labels: Mapping[str, Labels], images: Mapping[str, Tensor], scale: int = 255
) -> Arranged:
    """The splits `chosen`, from the labels of every part and the images of every split, of values from 0 to `scale`."""
    return Arranged.of(
        images,
        {split: torch.from_numpy(labels[one.part][one.rows]) for split, one in chosen.items()},
        {split: torch.from_numpy(one.rows.astype(np.int64)) for split, one in chosen.items()},
        scale,
    )


def statistics(images: Tensor, scale: int = 255) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel in units of the pixel range, to four digits.

    They come from sums of whole numbers, so that every machine finds the same.
    """
    n = images[..., 0].numel()
    total = torch.zeros(images.shape[-1], dtype=torch.int64)
    squares = total.clone()
    for first in range(0, len(images), CHUNK):
        part = images[first : first + CHUNK]
        counts = torch.stack([torch.bincount(part[..., c].reshape(-1), minlength=256) for c in range(len(total))])
        values = torch.arange(256)
        total += (counts * values).sum(1)
        squares += (counts * values**2).sum(1)
    mean = total.double() / n
    std = (squares.double() / n - mean**2).clamp_min(0).sqrt()
    # An architecture takes no smaller deviation than a thousandth.
    return tuple(round(m, 4) for m in (mean / scale).tolist()), tuple(
        max(round(s, 4), 1e-3) for s in (std / scale).tolist()
    )


def source_of(arranged: Arranged, *, dataset: str, name: str, classes: Sequence[str]) -> DataSource:
    """The data set of arranged images, with the settings of the nearest that the presets know."""
    rows, columns, channels = arranged.images[TEST].shape[1:]
    nearest, eps = nearest_to(channels, rows, columns)
    return DataSource(
        dataset=dataset,
        name=name,
        classes=tuple(classes),
        image_shape=(channels, rows, columns),
        mean=arranged.mean,
        std=arranged.std,
        default_eps=eps,
        scale=arranged.scale,
        fingerprint=arranged.fingerprint,
        read=arranged.read,
        trains_like=nearest,
    )


def nearest_to(channels: int, rows: int, columns: int) -> tuple[str, float]:
    """The data set whose settings suit images best, and the linf radius that is usual for such."""
    if channels == 1 and max(rows, columns) <= 32:
        return "digits", 32 / 255
    return "cifar10", (4 if min(rows, columns) >= 128 else 8) / 255


def name_of(place: Place) -> str:
    """The name in results: the file's or folder's own in characters that suit a file name, and the size asked for."""
    bare = place.path.stem if place.kind != "folder" and place.path.is_file() else place.path.name
    name = clean_name(bare, place.kind)
    return "-".join([name, *(f"{key}{value}" for key, value in place.sizes.items())])


def clean_name(text: str, kind: str) -> str:
    """`text` as a name in results, followed by `kind` where it is taken."""
    name = file_name(text)
    return "-".join(part for part in (name, kind) if part) if is_taken(name) else name


def file_name(text: str) -> str:
    """`text` in characters that suit a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")


def is_taken(name: str) -> bool:
    """Whether a name says nothing, or is that of a registered data set or of an official archive, however written."""

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    return plain(name) in {"", *map(plain, (*ARCHIVES, *names("data set")))}


def labels_of(values: object, where: str) -> Labels:
    """Labels as whole numbers from 0; raises DataError for anything else."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    whole = array.dtype.kind == "f" and array.ndim == 1 and np.array_equal(array, np.floor(array))
    if array.ndim != 1 or not (whole or array.dtype.kind in "iu"):
        shape = tuple(array.shape)
        raise DataError(f"labels in {where} are {array.dtype} of shape {shape}: expected a whole number for each image")
    for label in (array.min(), array.max()) if len(array) else ():
        if not 0 <= label < MOST_CLASSES:
            raise DataError(f"label {label} in {where} is out of range: expected 0 to {MOST_CLASSES - 1}")
    return array.astype(np.int64)


def classes_of(
    labels: Mapping[str, Labels], names: Sequence[str] | None, where: str, *, fewest: int = 2
) -> tuple[str, ...]:
    """Class names, given or numbers; raises DataError for a label without one, or too few classes."""
    most = max((int(part.max()) for part in labels.values() if len(part)), default=-1)
    classes = tuple(map(str, range(most + 1))) if names is None else tuple(names)
    if most >= len(classes):
        raise DataError(f"label {most} in {where} has no name: {len(classes)} classes are named")
    if len(classes) < fewest:
        raise DataError(f"{where} holds {len(classes)} classes: expected at least {fewest}")
    return classes
