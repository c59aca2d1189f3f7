"""Arrays in a NumPy archive, `npz:PATH`: x_train, y_train, x_test, y_test and the names that others give them."""

import re
from typing import Any

import numpy as np

from ensemble_bench.data.arrange import ALL, PARTS, name_of
from ensemble_bench.data.arrays import from_arrays
from ensemble_bench.data.source import DataSource
from ensemble_bench.data.unpickle import first_line
from ensemble_bench.errors import DataError
from ensemble_bench.registry.places import Place
from ensemble_bench.registry.terms import SPLITS

IMAGES = ("x", "image", "images", "img", "imgs", "data", "inputs")
LABELS = ("y", "label", "labels", "target", "targets")
CLASSES = ("classes", "class_names", "label_names")
EXPECTED = "x_train, y_train, x_test and y_test, or train_images, train_labels and so on, or x and y"


def open_npz(place: Place) -> DataSource:
    """Open arrays: uint8, or float from 0 to 1, (n, row, column) with or without channels in front or behind.

    With x_val and y_val they are for validation; x and y alone are split (see `splits_of`); an array of text called
    classes or class_names names the classes. Raises DataError, naming the array, for what does not fit.
    """
    path = place.path
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is a single array: expected an .npz file of {EXPECTED}")
        with archive:
            found, names = _named(archive, place), None
            if (key := next((key for key in CLASSES if key in archive.files), None)) is not None:
                if (told := np.asarray(archive[key])).ndim != 1:
                    raise DataError(f"{path}: {key} has shape {told.shape}: expected a list of names")
                names = [name.decode() if isinstance(name, bytes) else str(name) for name in told.tolist()]
            images = {part: archive[x] for part, (x, _) in found.items()}
            labels = {part: archive[y] for part, (_, y) in found.items()}
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    # Damaged archives make NumPy and zipfile raise errors of many kinds, among them struct.error and LZMAError.
    except Exception as error:
        raise DataError(f"{path} is no .npz file of plain arrays: {first_line(error)}") from error
    return from_arrays(images, labels, where=str(path), dataset=place.kept, name=name_of(place), names=names)


def _named(archive: Any, place: Place) -> dict[str, tuple[str, str]]:
    """The names of images and labels of every part; raises DataError where one of a pair is missing."""
    found: dict[tuple[str, bool], str] = {}
    for key in archive.files:
        words = re.split(r"[_\W]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower())
        parts = [PARTS[word] for word in words if word in PARTS]
        kinds = [word for word in words if word in (*IMAGES, *LABELS)]
        if len(kinds) == 1 and len(parts) + 1 == len(words) <= 2:
            at = parts[0] if parts else ALL, kinds[0] in IMAGES
            if at in found:
                raise DataError(f"{place.path} holds {found[at]} and {key}, which mean the same: leave one")
            found[at] = key
    whole = [found[ALL, images] for images in (True, False) if (ALL, images) in found]
    if len(whole) == 2 and len(found) > 2:
        told = next(key for (part, _), key in found.items() if part != ALL)
        raise DataError(f"{place.path} holds {' and '.join(whole)} of no split, and {told} beside them: name the split")
    named = [part for part in SPLITS if (part, True) in found or (part, False) in found] or [ALL]
    missing = not found or any((part, images) not in found for part in named for images in (True, False))
    if missing:
        raise DataError(f"{place.path} holds {', '.join(archive.files) or 'nothing'}: expected {EXPECTED}")
    return {part: (found[part, True], found[part, False]) for part in named}
