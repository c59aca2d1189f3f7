"""Galleries: a few images of a model's data set, clean, adversarial and their difference, as one small file."""

import base64
import binascii
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic
from ensemble_bench.leaderboard.published import board_of, name_of
from ensemble_bench.records import Record, Threat
from ensemble_bench.records.decoding import decode, plain
from ensemble_bench.records.seal import opened, sealed

GALLERY_FILE, GALLERY_FOLDER = "gallery.json", "gallery"
SCHEMA = 1
WIDEST = 96  # pixels of a picture's side; larger images are shown smaller
LARGEST = 4_000_000  # bytes of a file
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image three times, as PNG files in base64: clean, adversarial, and the difference of the two.

    `label` is its class, `prediction` what the model takes the adversarial image for, `broken_by` the attack.
    """

    id: int
    label: str
    prediction: str
    broken_by: str
    clean: str
    adversarial: str
    difference: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures of the images that a `suite` broke, of these weights, data and threat.

    Differences are shown `amplified` times as large, around grey; every side is `shrunk` times smaller than it was.
    """

    weights_hash: str
    data_hash: str
    threat: Threat
    suite: str
    amplified: float
    shrunk: int
    pictures: tuple[Picture, ...]

    def is_of(self, record: Record) -> bool:
        """Whether it shows the model of a record, attacked as the record says."""
        own = record.weights_hash, record.data_hash, record.threat
        return (self.weights_hash, self.data_hash, self.threat) == own


def gallery_file(record: Record) -> Path:
    """Where the gallery of a model lies: in its board's folder of galleries, or beside the record."""
    assert record.path is not None  # it was read
    board = board_of(record)
    return record.path.with_name(GALLERY_FILE) if board is None else board / GALLERY_FOLDER / f"{name_of(record)}.json"


def gallery_of(records: Sequence[Record]) -> Gallery | None:
    """The first gallery of one of the records, None where there is none; raises RecordError for a broken file."""
    for record in records:
        if record.path is not None and (path := gallery_file(record)).is_file():
            gallery = read_gallery(path)
            if gallery.is_of(record):
                return gallery
    return None


def read_gallery(path: Path) -> Gallery:
    """Read a gallery; raises RecordError for one that is broken, or holds anything but PNG files."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"expected at most {LARGEST:,} bytes")
        values = opened(path.read_bytes())
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema: expected {SCHEMA}, got {values['schema']!r}")
        found: Gallery = decode(Gallery, {k: v for k, v in values.items() if k != "schema"}, "gallery")
        for picture in found.pictures:
            for text in (picture.clean, picture.adversarial, picture.difference):
                if not base64.b64decode(text, validate=True).startswith(SIGNATURE):
                    raise ValueError(f"pictures: image {picture.id}: expected PNG files")
    except (OSError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise RecordError(f"{path}: not a gallery ({type(error).__name__}: {error})") from None
    return found


def write_gallery(gallery: Gallery, path: Path) -> None:
    """Write a gallery."""
    values = sealed({"schema": SCHEMA, **plain(gallery)})
    write_atomic(path, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def as_png(pixels: NDArray[np.uint8], shrunk: int = 1) -> str:
    """Pixels (row, column, channel) as a PNG file in base64, every side so many times smaller."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    sink = io.BytesIO()
    (image.reduce(shrunk) if shrunk > 1 else image).save(sink, format="PNG", optimize=True)
    return base64.b64encode(sink.getvalue()).decode()
