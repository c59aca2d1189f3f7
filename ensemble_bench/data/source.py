"""A data set and its splits: images as uint8 counts, labels, and a fingerprint of the whole content."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.registry.terms import SPLITS

SPLIT_SEED = 0
# Images hashed together.
CHUNK = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one split, stored as integers from 0 to `scale`: a pixel in [0, 1] is images / scale.

    `ids` are the rows of the images in their file, the same in every subset. `fingerprint` is that of the whole data
    set, the same for all of its splits.
    """

    name: str
    split: str
    images: UInt8[Tensor, "n channel row column"] = field(repr=False)
    labels: Int64[Tensor, "n"] = field(repr=False)
    scale: int
    ids: Int64[Tensor, "n"] = field(repr=False)
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: Sequence[int] | slice | Int64[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch channel row column"], Int64[Tensor, "batch"]]:
        """Return (x, y) at positions `indices` of this set: x float32 in [0, 1], y int64."""
        at = indices if isinstance(indices, slice | Tensor) else torch.as_tensor(indices, dtype=torch.int64)
        x = self.images[at].to(torch.float32, memory_format=torch.contiguous_format)
        return x.div_(self.scale), self.labels[at].clone()

    def part(self, rows: slice) -> "ImageSet":
        """Return the images at positions `rows`, with their ids, as a set."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], ids=self.ids[rows])

    def first(self, n: int) -> "ImageSet":
        """Return the first `n` images as a set; raises InvalidValueError unless 1 <= n <= len."""
        if isinstance(n, bool) or not isinstance(n, Integral) or not 1 <= n <= len(self):
            held = f"the {self.split} split of {self.name} holds {len(self)} images"
            raise InvalidValueError(f"n is {n!r}: {held}, so choose 1 to {len(self)}")
        return self.part(slice(n))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Part of a data set: images, their labels, and their rows in the source file (`ids`)."""

    images: UInt8[Tensor, "n channel row column"]
    labels: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]

    def at(self, rows: Int64[Tensor, "m"]) -> "Rows":
        """Return the part at positions `rows`, in that order."""
        return Rows(images=self.images[rows], labels=self.labels[rows], ids=self.ids[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSource:
    """An opened data set; a split is read when `split` is called.

    `dataset` is its name in the registry; `name` is its name in results and folders ("cifar10-jpeg"). `mean` and `std`
    are per channel and `default_eps` is a linf radius, all in units of the pixel range [0, 1]. `fingerprint`
    ("sha256:…") covers the pixels and labels of all splits in their order. `trains_like` names the data set whose
    settings in the presets it is trained with, by default its own.
    """

    dataset: str
    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    default_eps: float
    scale: int
    fingerprint: str
    read: Callable[[str], Rows] = field(repr=False)
    trains_like: str | None = None

    def split(self, split: str) -> ImageSet:
        """Return "train", "validation" or "test"; raises UnknownNameError for any other name."""
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        rows = self.read(split)
        return ImageSet(
            name=self.name,
            split=split,
            images=rows.images,
            labels=rows.labels,
            scale=self.scale,
            ids=rows.ids,
            fingerprint=self.fingerprint,
        )


def given_folder(data_dir: str | Path | None) -> Path | None:
    """The folder of the data, absolute: `data_dir`, else that in ENSEMBLE_BENCH_DATA, else None."""
    given = data_dir or os.environ.get("ENSEMBLE_BENCH_DATA")
    # Unlike Path's, it leaves the ~ of a user that there is not, and the error names the path.
    return Path(os.path.abspath(os.path.expanduser(given))) if given else None


def fingerprint(
    parts: Mapping[str, tuple[UInt8[Tensor, "n channel row column"], Int64[Tensor, "n"]]], scale: int = 255
) -> str:
    """Return "sha256:…" over the pixels and labels of all `parts` (name -> images, labels), in the order given.

    It is a hash of decoded content: the same images in the same order have the same fingerprint as pickled batches,
    parquet or image files. Another order has another fingerprint, because its first n images are others; so do the
    same counts of another `scale`, which are other pixels.
    """
    digest = hashlib.sha256(b"" if scale == 255 else f"scale {scale}\n".encode())
    for name, (images, labels) in parts.items():
        digest.update(f"{name} {tuple(images.shape)}\n".encode())
        for first in range(0, len(images), CHUNK):  # those kept channels-last are put in order without a copy of all
            digest.update(images[first : first + CHUNK].contiguous().numpy().data)
        digest.update(labels.numpy().astype("<i8").data)
    return f"sha256:{digest.hexdigest()}"


def stratified_draw(labels: Int64[Tensor, "n"], size: int, *, seed: int = SPLIT_SEED) -> tuple[Tensor, Tensor]:
    """Draw `size` rows with the class shares of `labels`; returns (drawn, in random order; the rest, ascending).

    Class shares are exact up to rounding (largest remainders first). The draw depends on `labels`, `size` and
    `seed` alone: RandomState's stream is frozen, whereas that of NumPy's newer generators may change.
    """
    y = labels.numpy()
    classes, counts = np.unique(y, return_counts=True)
    exact = counts * size / len(y)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: size - quota.sum()]] += 1
    order = np.random.RandomState(seed).permutation(len(y))
    drawn = np.zeros(len(y), dtype=bool)
    for label, k in zip(classes, quota, strict=True):
        drawn[order[y[order] == label][:k]] = True
    return torch.from_numpy(order[drawn[order]]), torch.from_numpy(np.flatnonzero(~drawn))
