"""Make the gallery of a model from the adversarial images that an evaluation of it saved as PNG files."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ensemble_bench.data import ImageSet, open_source
from ensemble_bench.errors import InvalidValueError, check_whole
from ensemble_bench.evaluation.images import ABOUT_FILE, CLEAN, TABLE_FILE
from ensemble_bench.leaderboard.gallery import WIDEST, Gallery, Picture, as_png, gallery_file, write_gallery
from ensemble_bench.records import Record, find_records

GREY = 128
MODES = ("L", "LA", "RGB", "RGBA")
"""Pillow's names of 8-bit pixels, a letter a channel."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What the table says of an image that an attack broke: its file, and what the data set calls it."""

    file: str
    id: int
    label: int
    prediction: int
    broken_by: str


def make_gallery(folder: Path, *, root: Path, data_dir: str | Path | None = None, count: int = 8) -> Path:
    """Write the gallery of the model below `root` whose adversarial images lie in `folder`; returns its path.

    The folder is one that `evaluate --save-images` wrote. Of the images that an attack broke it shows `count`, as many
    classes as there are. Raises InvalidValueError for anything else, images that no attack broke, and a model that is
    not there; DataError as `open_source`.
    """
    folder, root = Path(folder), Path(root)
    check_whole("count", count, least=1)
    about, rows = _saved(folder)
    record = _record(about, root, folder)
    source = open_source(record.dataset, data_dir)
    if source.fingerprint != record.data_hash:
        raise InvalidValueError(f"data set {source.name} is not the one of {folder}: expected {record.data_hash}")
    chosen = _chosen(rows, count)
    if not chosen:
        raise InvalidValueError(f"{folder}: no image that an attack broke; a gallery shows these")
    images = source.split(record.split)
    for row in chosen:
        if row.id not in images.ids or not {row.label, row.prediction} <= set(range(len(source.classes))):
            raise InvalidValueError(
                f"{folder / TABLE_FILE}: the image or a class of {row.file} is none of {source.name}"
            )
    clean = [_clean(images, row.id) for row in chosen]
    attacked = [_attacked(folder / row.file, like) for row, like in zip(chosen, clean, strict=True)]
    pairs = list(zip(clean, attacked, strict=True))
    largest = max(float(np.abs(attacked - clean).max()) for clean, attacked in pairs) or 1.0
    shrunk = -(-max(pairs[0][0].shape[:2]) // WIDEST)
    gallery = Gallery(
        weights_hash=record.weights_hash,
        data_hash=record.data_hash,
        threat=record.threat,
        suite=str(about["suite"]),
        amplified=round((GREY - 1) / 255 / largest, 2),
        shrunk=shrunk,
        pictures=tuple(
            Picture(
                id=row.id,
                label=source.classes[row.label],
                prediction=source.classes[row.prediction],
                broken_by=row.broken_by,
                clean=as_png(_levels(clean), shrunk),
                adversarial=as_png(_levels(attacked), shrunk),
                difference=as_png(_levels((attacked - clean) / largest * (GREY - 1) / 255 + GREY / 255), shrunk),
            )
            for row, (clean, attacked) in zip(chosen, pairs, strict=True)
        ),
    )
    path = gallery_file(record)
    write_gallery(gallery, path)
    return path


def _saved(folder: Path) -> tuple[Mapping[str, Any], list[_Row]]:
    """What the folder says of its evaluation, and the rows of the images that an attack broke."""
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
            rows = [_row(row) for row in csv.DictReader(file, strict=True) if row["broken"] == "1"]
        missing = {"weights_hash", "data_hash", "threat", "suite", "split"} - about.keys()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, csv.Error):
        missing = {"a readable table"}
    if missing:
        raise InvalidValueError(
            f"{folder}: expected a folder of PNG files, as `ensemble-bench evaluate --save-images FOLDER` writes it"
        )
    return about, [row for row in rows if row.broken_by not in ("", CLEAN)]


def _row(values: Mapping[str, str]) -> _Row:
    """A row of the table; raises ValueError for a file that lies elsewhere, and a number that is none."""
    if values["file"] != Path(values["file"]).name:
        raise ValueError(values["file"])
    numbers = {name: int(values[name]) for name in ("id", "label", "prediction")}
    return _Row(file=values["file"], broken_by=values["broken_by"], **numbers)


def _record(about: Mapping[str, Any], root: Path, folder: Path) -> Record:
    """A record below `root` of the model whose images these are, the evaluation itself before others."""
    known = [
        record
        for record in find_records(root)
        if record.view is None
        and (record.weights_hash, record.data_hash) == (about["weights_hash"], about["data_hash"])
        and {"norm": record.threat.norm, "eps": record.threat.eps} == about["threat"]
    ]
    if not known:
        raise InvalidValueError(f"{root}: no record of the model of {folder}, on its data under its threat")
    return min(known, key=lambda record: (record.id != about.get("evaluation"), str(record.path)))


def _chosen(rows: Sequence[_Row], count: int) -> list[_Row]:
    """The first image of every class that an attack broke, then the second, up to `count`, in their order."""
    turns: Counter[int] = Counter()
    ordered = []
    for place, row in enumerate(rows):
        turns[row.label] += 1
        ordered.append((turns[row.label], place))
    return [rows[place] for place in sorted(place for _, place in sorted(ordered)[:count])]


def _clean(images: ImageSet, image: int) -> NDArray[np.float64]:
    """A clean image in [0, 1], (row, column, channel)."""
    (place,) = np.flatnonzero(images.ids.numpy() == image)
    pixels: NDArray[np.float64] = images.images[int(place)].numpy().transpose(1, 2, 0) / images.scale
    return pixels


def _attacked(path: Path, clean: NDArray[np.float64]) -> NDArray[np.float64]:
    """A PNG file in [0, 1], (row, column, channel); InvalidValueError unless it is one of the clean image's shape."""
    try:
        with Image.open(path, formats=("PNG",)) as file:
            # Before the pixels are decoded, which may be as many as there is no memory for.
            if file.mode not in MODES or (file.height, file.width, len(file.mode)) != clean.shape:
                size = f"{file.height}x{file.width} {file.mode}"
                raise InvalidValueError(f"{path} is {size}: expected 8 bits and the clean image's shape, {clean.shape}")
            return np.asarray(file, dtype=np.float64).reshape(clean.shape) / 255
    except InvalidValueError:
        raise
    except Exception as error:  # of damaged files Pillow raises errors of many kinds
        raise InvalidValueError(f"{path}: not a PNG file ({type(error).__name__})") from None


def _levels(pixels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(255 * pixels.clip(0, 1)).astype(np.uint8)
