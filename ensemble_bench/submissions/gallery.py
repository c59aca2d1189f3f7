"""Make the gallery of a model from the adversarial images that an evaluation of it saved as PNG files."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ensemble_bench.data import ImageSet, open_source
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation.images import ABOUT_FILE, CLEAN, TABLE_FILE
from ensemble_bench.leaderboard.gallery import WIDEST, Gallery, Picture, as_png, gallery_file, write_gallery
from ensemble_bench.records import Record, find_records

GREY = 128


def make_gallery(folder: Path, *, root: Path, data_dir: str | Path | None = None, count: int = 8) -> Path:
    """Write the gallery of the model below `root` whose adversarial images lie in `folder`; returns its path.

    The folder is one that `evaluate --save-images` wrote. Of the images that an attack broke it shows `count`, as many
    classes as there are. Raises InvalidValueError for anything else, images that no attack broke, and a model that is
    not there; DataError as `open_source`.
    """
    about, rows = _saved(Path(folder))
    record = _record(about, Path(root), Path(folder))
    source = open_source(record.dataset, data_dir)
    if source.fingerprint != record.data_hash:
        raise InvalidValueError(f"data set {source.name} is not the one of {folder}: expected {record.data_hash}")
    chosen = _chosen(rows, count)
    if not chosen:
        raise InvalidValueError(f"{folder}: no image that an attack broke; a gallery shows these")
    images = source.split(record.split)
    pairs = [(_clean(images, int(row["id"])), _attacked(Path(folder) / row["file"])) for row in chosen]
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
                id=int(row["id"]),
                label=source.classes[int(row["label"])],
                prediction=source.classes[int(row["prediction"])],
                broken_by=row["broken_by"],
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


def _saved(folder: Path) -> tuple[Mapping[str, Any], list[dict[str, str]]]:
    """What the folder says of its evaluation, and the rows of its table."""
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        missing = {"weights_hash", "data_hash", "threat", "suite", "split"} - set(about)
        missing |= {"file", "id", "label", "broken", "broken_by", "prediction"} - set(rows[0])
    except (OSError, ValueError, TypeError, IndexError):
        missing = {"a readable table"}
    if missing:
        raise InvalidValueError(
            f"{folder}: expected a folder of PNG files, as `ensemble-bench evaluate --save-images FOLDER` writes it"
        )
    return about, rows


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


def _chosen(rows: Sequence[Mapping[str, str]], count: int) -> list[Mapping[str, str]]:
    """The first image of every class that an attack broke, then the second, up to `count`, in their order."""
    broken = [row for row in rows if row["broken"] == "1" and row["broken_by"] not in ("", CLEAN)]
    turns: dict[str, int] = {}
    ordered = []
    for place, row in enumerate(broken):
        turns[row["label"]] = turns.get(row["label"], 0) + 1
        ordered.append((turns[row["label"]], place, row))
    first = sorted(ordered, key=lambda entry: entry[:2])[:count]
    return [row for _, _, row in sorted(first, key=lambda entry: entry[1])]


def _clean(images: ImageSet, image: int) -> NDArray[np.float64]:
    """A clean image in [0, 1], (row, column, channel)."""
    (place,) = np.flatnonzero(images.ids.numpy() == image)
    pixels: NDArray[np.float64] = images.images[int(place)].numpy().transpose(1, 2, 0) / images.scale
    return pixels


def _attacked(path: Path) -> NDArray[np.float64]:
    """A PNG file in [0, 1], (row, column, channel)."""
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file, dtype=np.float64) / 255
    except (OSError, UnidentifiedImageError) as error:
        raise InvalidValueError(f"{path}: not a PNG file ({type(error).__name__})") from None
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _levels(pixels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(255 * pixels.clip(0, 1)).astype(np.uint8)
