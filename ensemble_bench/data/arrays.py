"""Images and labels that are arrays or tensors already, in files or in memory."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemble_bench.data.arrange import Labels, arrange, classes_of, labels_of, source_of, splits_of
from ensemble_bench.data.memory import check_fits
from ensemble_bench.data.source import DataSource
from ensemble_bench.errors import DataError
from ensemble_bench.registry.terms import SMALLEST

CHANNELS = (1, 3)
# A float that is farther from a multiple of 1/255, or of another fraction, is none: a hundredth of a shade.
OFF_GRID = 4e-5
# Images looked at together: most wrong scales are seen in the first.
LOOKED_AT = 64

Array = np.ndarray[Any, np.dtype[Any]]


def from_arrays(
    images: Mapping[str, object],
    labels: Mapping[str, object],
    *,
    where: str,
    dataset: str,
    name: str,
    names: Sequence[str] | None = None,
    in_order: bool = False,
) -> DataSource:
    """The data set of the arrays of every part ("train", "validation", "test", or "all"), split as `splits_of` says.

    Those that are `in_order` are looked at in their own order, however few their classes. Raises DataError, naming
    `where`, for arrays that hold no images, or not as many as labels.
    """
    plain = {part: _plain(x) for part, x in images.items()}
    scale = scale_of(list(plain.values()))
    pixels = {part: bytes_of(x, f"{where}, {part}", scale=scale) for part, x in plain.items()}
    numbers = {part: labels_of(_plain(y), f"{where}, {part}") for part, y in labels.items()}
    shapes = {part: x.shape[1:] for part, x in pixels.items()}
    for part, shape in shapes.items():
        if len(pixels[part]) != len(numbers[part]):
            raise DataError(f"{where}, {part}: {len(pixels[part])} images but {len(numbers[part])} labels")
        if shape != (first := next(iter(shapes.values()))):
            raise DataError(
                f"{where}: images of {part} are {_text(shape)}, those of {next(iter(shapes))} {_text(first)}"
            )
    classes = classes_of(numbers, names, where, fewest=1 if in_order else 2)
    chosen = splits_of(numbers, where, in_order=in_order)
    # The splits of one part are copies of parts of it.
    check_fits(sum(len(one.rows) for one in chosen.values()), next(iter(shapes.values())), where)
    taken = {split: torch.from_numpy(_taken(pixels[one.part], one.rows)) for split, one in chosen.items()}
    return source_of(arrange(chosen, numbers, taken, scale), dataset=dataset, name=name, classes=classes)


def scale_of(arrays: Sequence[Array]) -> int:
    """The number that makes whole numbers of all floats, 16 for images of 17 shades; 255 for others and for bytes."""
    if not all(array.dtype.kind == "f" and array.size for array in arrays if array.ndim):
        return 255
    return next((scale for scale in (255, *range(1, 255)) if all(_on_grid(array, scale) for array in arrays)), 255)


def _on_grid(array: Array, scale: int) -> bool:
    """Whether every value is a multiple of 1/scale."""
    for first in range(0, len(array) if array.ndim else 0, LOOKED_AT):
        shades = np.asarray(array[first : first + LOOKED_AT], dtype=np.float64) * scale
        with np.errstate(invalid="ignore"):  # infinite values are refused later
            if not np.abs(shades - np.rint(shades)).max() / scale <= OFF_GRID:
                return False
    return True


def bytes_of(values: object, where: str, *, scale: int = 255) -> Array:
    """Images as bytes (n, row, column, channel), of uint8 or float from 0 to 1 and channels in front, behind or none.

    Floats become multiples of 1/scale, the nearest, with a warning where that changes them.
    """
    array = _plain(values)
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or not len(array):
        raise DataError(
            f"images in {where} have shape {tuple(array.shape)}: expected (n, row, column) or with channels"
        )
    if array.shape[1] in CHANNELS and array.shape[3] not in CHANNELS:
        array = array.transpose(0, 2, 3, 1)
    if array.shape[3] not in CHANNELS:
        raise DataError(f"images in {where} have shape {tuple(array.shape)}: expected 1 or 3 channels, first or last")
    if min(array.shape[1:3]) < SMALLEST:
        raise DataError(f"images in {where} are {_text(array.shape[1:])}: expected at least {SMALLEST}x{SMALLEST}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    return _rounded(array, where, scale)


def _rounded(array: Array, where: str, scale: int) -> Array:
    if array.dtype.kind not in "iuf":
        raise DataError(f"images in {where} are {array.dtype}: expected uint8, or float from 0 to 1")
    low, high = array.min(), array.max()
    whole, top = array.dtype.kind in "iu", 255 if array.dtype.kind in "iu" else 1
    if not (low >= 0 and high <= top):  # also where there is a NaN
        hint = "; divide by 255" if not whole and low >= 0 and 2 <= high <= 255 else ""
        # All digits, as rounding alone leads to values like 1.0000001.
        told = " to ".join(str(value).removesuffix(".0") for value in (low, high))
        raise DataError(f"pixels in {where} go from {told}: expected 0 to {top} for {array.dtype}{hint}")
    out = np.empty(array.shape, dtype=np.uint8)
    off = 0.0
    for row, image in enumerate(array):
        shades = image if whole else np.asarray(image, dtype=np.float64) * scale
        out[row] = np.rint(shades)
        off = max(off, float(np.abs(shades - out[row]).max()))
    if off / scale > OFF_GRID:
        told = f"rounded to the nearest of {scale + 1} shades, by up to {off / scale:.4f}"
        warnings.warn(f"pixels in {where} are {told}", stacklevel=2)
    return out


def _taken(pixels: Array, rows: Labels) -> Array:
    whole = len(rows) == len(pixels) and bool((np.diff(rows) == 1).all())
    return pixels if whole and pixels.flags.writeable else pixels[rows]  # torch warns of arrays that are read-only


def _plain(values: object) -> Array:
    """An array of what a caller gives: a tensor, an array or lists."""
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
            values = torch.stack(list(values))
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return np.asarray(values)
    # The last two of tensors: their layout, or sizes that differ.
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"cannot make an array of a {type(values).__name__}: {error}") from error


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
