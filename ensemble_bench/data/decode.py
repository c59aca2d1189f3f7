"""Decode images of any size and colour into one shape, as torchvision's presets for classification do."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ensemble_bench.data.unpickle import first_line
from ensemble_bench.errors import DataError
from ensemble_bench.registry.terms import SMALLEST

GREY = ("1", "L")
# What Pillow makes 8 bits of red, green and blue of, as torchvision's loader does: an alpha channel is dropped.
COLOUR = ("RGB", "RGBA", "P", "PA", "LA", "La", "RGBa", "RGBX", "CMYK", "YCbCr")

T = TypeVar("T")
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """An image that is not decoded yet: the words for its place in an error, and how its bytes are read."""

    place: str
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Format:
    """The shape that all images get: (row, column, channel), by resizing and cropping where these are given."""

    shape: tuple[int, int, int]
    resize: int | None
    crop: int | None


def format_of(images: Sequence[Encoded], *, resize: int | None, crop: int | None) -> Format:
    """The common format of images, of which only the headers are read.

    One channel where all are grey, else three. Raises DataError for sizes that differ, naming two images, for one that
    is too small to crop or for a network, and for what is no 8-bit PNG or JPEG.
    """
    colour, first, shape = False, images[0], (0, 0)
    for image in images:
        size, mode = opened(image.place, image.read(), lambda header: (header.size, header.mode))
        if mode not in GREY and mode not in COLOUR:
            raise DataError(f"{image.place} is of mode {mode}: expected 8 bits a channel, grey or colour")
        colour = colour or mode in COLOUR
        found = _final(size, resize, crop)
        if crop is not None and min(found) < crop:
            raise DataError(f"{image.place} is {_text(size)}: too small to crop {crop}x{crop} from, so pass --resize")
        if image is first:
            shape = found
        elif found != shape:
            raise DataError(
                f"images differ in size: {first.place} is {_text(shape)}, {image.place} is {_text(found)}; "
                "pass --resize N to make all NxN"
            )
    if min(shape) < SMALLEST:
        raise DataError(f"{first.place} is {_text(shape)}: expected at least {SMALLEST}x{SMALLEST} (--resize)")
    return Format(shape=(shape[1], shape[0], 3 if colour else 1), resize=resize, crop=crop)


def decode(images: Sequence[Encoded], form: Format) -> Bytes:
    """Images (n, row, column, channel), decoded one by one into their place; raises DataError for a damaged one."""
    out = np.empty((len(images), *form.shape), dtype=np.uint8)
    for row, image in enumerate(images):
        out[row] = opened(image.place, image.read(), lambda whole: _pixels(whole, form))
    return out


def _final(size: tuple[int, int], resize: int | None, crop: int | None) -> tuple[int, int]:
    """The size (column, row) that an image ends with; one too small for its crop keeps its own."""
    if resize is not None:
        size = _resized(size, resize)
    side = resize if crop is None else crop
    return size if side is None or min(size) < side else (side, side)


def _resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    """As torchvision's Resize: the shorter side becomes `side`, the longer one is rounded down."""
    short = min(size)
    return (side, int(side * size[1] / short)) if size[0] == short else (int(side * size[0] / short), side)


def _pixels(image: Any, form: Format) -> Bytes:
    from PIL.Image import Resampling

    rows, columns, channels = form.shape
    image = image.convert("L" if channels == 1 else "RGB")
    if form.resize is not None and (size := _resized(image.size, form.resize)) != image.size:
        image = image.resize(size, Resampling.BILINEAR)
    # As torchvision's CenterCrop; a half is rounded to even there too.
    left, top = round((image.size[0] - columns) / 2), round((image.size[1] - rows) / 2)
    image = image.crop((left, top, left + columns, top + rows))
    return np.asarray(image, dtype=np.uint8).reshape(form.shape)


def opened(place: str, content: bytes, use: Callable[[Any], T]) -> T:
    """What `use` makes of an image, opened; raises DataError, naming `place`, if it is damaged or no PNG or JPEG."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            return use(image)
    # Damaged files make Pillow raise errors of many kinds, among them SyntaxError and struct.error.
    except Exception as error:
        reason = "not a PNG or JPEG" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise DataError(f"cannot decode {place}: {reason}") from error


def bytes_in(value: object, place: str) -> bytes:
    """The encoded image in a cell of a table, bytes alone or in a struct; raises DataError where there is none."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise DataError(f"{place} has no bytes: expected an encoded PNG or JPEG")
    return content


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
