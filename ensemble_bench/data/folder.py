"""Image files in a folder a class, `folder:PATH`, as torchvision's ImageFolder reads them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble_bench.data.arrange import ALL, PARTS, Arranged, name_of, source_of, splits_of
from ensemble_bench.data.decode import Encoded
from ensemble_bench.data.keep import decoded
from ensemble_bench.data.layouts import images_in, is_hidden
from ensemble_bench.data.source import DataSource
from ensemble_bench.errors import DataError
from ensemble_bench.registry.places import Place
from ensemble_bench.registry.terms import TRAIN

EXPECTED = "train/<class>/ and test/<class>/ (or val/<class>/), or <class>/, with .png or .jpg files"


def open_folder(place: Place) -> DataSource:
    """Open class folders: in train/ and test/ or val/, or on one level, which is then split (see `splits_of`).

    Classes are numbered in the order of their names, as ImageFolder numbers them. Grey images stay grey where all are;
    an alpha channel is dropped. Raises DataError for what does not fit, in one line.
    """
    arranged, classes = read_folders(place.path, resize=place.resize, crop=place.crop)
    return source_of(arranged, dataset=place.kept, name=name_of(place), classes=classes)


def read_folders(root: Path, *, resize: int | None, crop: int | None) -> tuple[Arranged, tuple[str, ...]]:
    """The images below `root`, arranged, and the names of their classes."""
    try:
        parts, classes = _files(root)
        number = {name: label for label, name in enumerate(classes)}
        labels = {
            part: np.array([number[path.parent.name] for path in files], dtype=np.int64)
            for part, files in parts.items()
        }
        images = {
            part: [Encoded(place=f"image {path}", read=path.read_bytes) for path in files]
            for part, files in parts.items()
        }
        chosen = splits_of(labels, str(root))
        used = [path for part in parts for path in parts[part]]
        return decoded(root, used, images, labels, chosen, resize=resize, crop=crop), classes
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error


def _files(root: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """The image files of every part, class by class, and the classes; raises DataError where there are none."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {root} {problem}: it must hold {EXPECTED}")
    folders = _folders(root)
    there: dict[str, str] = {}
    for name in folders:
        if (part := PARTS.get(name.lower())) is not None:
            if part in there:
                raise DataError(f"data folder {root} holds {there[part]}/ and {name}/, which mean the same: leave one")
            there[part] = name
    if not there:
        parts, classes = {ALL: root}, {ALL: folders}
    else:
        parts = {part: root / name for part, name in there.items()}
        classes = {part: _folders(folder) for part, folder in parts.items()}
    named = classes[TRAIN] if TRAIN in classes else sorted({name for found in classes.values() for name in found})
    if len(named) < 2:
        raise DataError(f"data folder {root} holds {len(named)} class folders: expected {EXPECTED}")
    for part, found in classes.items():
        if strange := sorted(set(found) - set(named)):
            raise DataError(
                f"data folder {root}: class {strange[0]!r} of {parts[part].name}/ is not in {parts[TRAIN].name}/"
            )
    skipped: list[str] = []
    files = {part: _images(folder, classes[part], skipped) for part, folder in parts.items()}
    if skipped:
        told = "1 file that is" if len(skipped) == 1 else f"{len(skipped)} files that are"
        warnings.warn(f"data folder {root}: skips {told} hidden or no .png or .jpg, such as {skipped[0]}", stacklevel=2)
    return files, tuple(named)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _images(folder: Path, classes: Sequence[str], skipped: list[str]) -> list[Path]:
    return [folder / name / file for name in classes for file in images_in(folder, name, skipped)]
