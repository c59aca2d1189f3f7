"""Parquet as the Hugging Face hub keeps images, `parquet:PATH`: a column of encoded images and one of labels."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ensemble_bench.data.arrange import (
    ALL,
    PARTS,
    Arranged,
    Labels,
    classes_of,
    labels_of,
    name_of,
    source_of,
    splits_of,
)
from ensemble_bench.data.decode import Encoded, bytes_in
from ensemble_bench.data.keep import decoded
from ensemble_bench.data.memory import check_bytes_fit
from ensemble_bench.data.source import DataSource
from ensemble_bench.data.unpickle import first_line
from ensemble_bench.errors import DataError
from ensemble_bench.registry.places import Place

# Of several columns that could be it, the first that is there.
IMAGE_NAMES = ("image", "img", "images", "picture", "pixels")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y", "category")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of images and labels, and the names of the classes where the file tells them."""

    image: str
    label: str
    classes: tuple[str, ...] | None
    text: bool


def open_parquet(place: Place) -> DataSource:
    """Open a .parquet file, or a folder of them whose names or folders say train, test or validation.

    Images are bytes of PNG or JPEG, alone or in a struct; labels are whole numbers, named in the hub's metadata, or
    text, numbered in the order of the words. Raises DataError for what does not fit, in one line.
    """
    arranged, classes = read_parquet(place.path, resize=place.resize, crop=place.crop)
    return source_of(arranged, dataset=place.kept, name=name_of(place), classes=classes)


def read_parquet(root: Path, *, resize: int | None, crop: int | None) -> tuple[Arranged, tuple[str, ...]]:
    """The images of the files at `root`, arranged, and the names of their classes."""
    import pyarrow as pa

    try:
        parts = _files(root)
        files = [path for found in parts.values() for path in found]
        columns = _columns(files[0])
        # Before they are read: encoded images stay in memory until all are decoded.
        check_bytes_fit(sum(_size(path, columns.image) for path in files), f"{root}: its encoded images")
        rows = {part: [row for path in files for row in _rows(path, columns)] for part, files in parts.items()}
        given = {part: [label for _, label in found] for part, found in rows.items()}
        labels, names = _numbered(given, columns, str(root))
        classes = classes_of(labels, names, str(root))
        images = {part: [image for image, _ in found] for part, found in rows.items()}
        folder = root if root.is_dir() else root.parent
        chosen = splits_of(labels, str(root))
        return decoded(folder, files, images, labels, chosen, resize=resize, crop=crop), classes
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        raise DataError(f"cannot read {root} as parquet: {first_line(error)}") from error


def _files(root: Path) -> dict[str, list[Path]]:
    """The files of every part in order; raises DataError for none, or a numbered one that is missing."""
    if not root.exists():
        raise DataError(f"{root} does not exist: expected a .parquet file or a folder of them")
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if not files:
        raise DataError(f"folder {root} holds no .parquet files")
    parts: dict[str, list[Path]] = {}
    homes: dict[str, set[Path]] = {}
    for path in files:
        part, home = _part(path, root)
        parts.setdefault(part, []).append(path)
        homes.setdefault(part, set()).add(home)
    if root.is_file():
        return {ALL: files}
    if ALL in parts and len(parts) > 1:
        raise DataError(f"{parts[ALL][0]} says neither train nor test in its name, and others beside it do")
    for part, found_files in parts.items():
        _check_complete(found_files)
        if part != ALL and len(homes[part]) > 1:
            told = " and ".join(str(home) for home in sorted(homes[part])[:2])
            raise DataError(f"{root} holds several data sets: {told} both have a {part} split, so name one of them")
    return parts


def _part(path: Path, root: Path) -> tuple[str, Path]:
    """Which part a file says it is of, ALL for none, and the folder that this part lies in.

    The words of the file's own name come first, then those of its folders below `root`, the nearest first.
    """
    names = [path.stem, *reversed(path.relative_to(root).parts[:-1])] if path != root else [path.stem]
    for name, home in zip(names, path.parents, strict=False):
        if found := [PARTS[word] for word in re.split(r"[\W_]+", name.lower()) if word in PARTS]:
            return found[0], home
    return ALL, root


def _check_complete(files: Iterable[Path]) -> None:
    there: dict[tuple[Path, str, int], set[int]] = {}
    for path in files:
        if match := re.fullmatch(r"(.*)-(\d+)-of-(\d+)(?:-\w+)?", path.stem):
            there.setdefault((path.parent, match[1], int(match[3])), set()).add(int(match[2]))
    for (folder, name, total), numbers in there.items():
        if missing := sorted({*range(total)} - numbers):
            raise DataError(f"data folder {folder} is incomplete: it lacks {name}-{missing[0]:05d}-of-{total:05d}")


def _columns(path: Path) -> Columns:
    """Which columns hold images and labels; raises DataError where none or several could."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    _check_names(schema, path)
    told = _told(schema)
    images = [field.name for field in schema if _is_image(field.type)]
    could = [field.name for field in schema if _is_label(field.type)]
    labels = [name for name in could if told.get(name, {}).get("_type") == "ClassLabel"] or could
    image = _one(images, IMAGE_NAMES, "images (bytes, or a struct with bytes)", path, schema.names)
    label = _one(labels, LABEL_NAMES, "labels (whole numbers or text)", path, schema.names)
    return Columns(image=image, label=label, classes=_classes(schema, label), text=_is_text(schema.field(label).type))


def _classes(schema: Any, label: str) -> tuple[str, ...] | None:
    names = _told(schema).get(label, {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) else None


def _check_classes(first: Sequence[str], here: Sequence[str], path: Path) -> None:
    for label, (expected, name) in enumerate(zip_longest(first, here) if first and here else ()):
        if name != expected:
            raise DataError(f"{path} calls class {label} {name!r}: another file of the data set calls it {expected!r}")


def _check_names(schema: Any, path: Path) -> None:
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise DataError(f"{path} has two columns called {twice[0]!r}: expected one")


def _told(schema: Any) -> Mapping[str, Mapping[str, Any]]:
    """What the hub's libraries say of the columns in the file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind))


def _is_label(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind)) or _is_text(kind)


def _one(found: Sequence[str], known: Sequence[str], what: str, path: Path, columns: Sequence[str]) -> str:
    if len(found) == 1:
        return found[0]
    usual = [name for name in known if name in found]
    if usual:
        return usual[0]
    listed = ", ".join(found) if found else f"none of {', '.join(columns)}"
    raise DataError(f"{path}: expected one column of {what}, found {listed}: call it {known[0]}")


def _size(path: Path, column: str) -> int:
    """Bytes of a column, a struct's parts together."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    parts = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(part.total_uncompressed_size for part in parts if f"{part.path_in_schema}.".startswith(f"{column}."))


def _rows(path: Path, columns: Columns) -> list[tuple[Encoded, Any]]:
    """Every image of a file, still encoded, with its label."""
    import pyarrow.parquet as pq

    found: list[tuple[Encoded, Any]] = []
    with pq.ParquetFile(path) as file:
        _check_names(file.schema_arrow, path)
        names = file.schema_arrow.names
        if missing := [name for name in (columns.image, columns.label) if name not in names]:
            raise DataError(f"{path} has columns {', '.join(names)}: expected {missing[0]}, as the others have")
        if not columns.text:
            _check_classes(columns.classes or (), _classes(file.schema_arrow, columns.label) or (), path)
        for batch in file.iter_batches(batch_size=CHUNK, columns=[columns.image, columns.label]):
            labels = batch.column(columns.label).to_pylist()
            for value, label in zip(batch.column(columns.image).to_pylist(), labels, strict=True):
                place = f"image in row {len(found)} of {path}"
                content = bytes_in(value, place)
                if label is None:
                    raise DataError(f"row {len(found)} of {path} has no label in {columns.label}")
                found.append((Encoded(place=place, read=partial(bytes, content)), label))
    return found


CHUNK = 1024
"""Rows read together."""


def _numbered(
    given: Mapping[str, Sequence[Any]], columns: Columns, where: str
) -> tuple[dict[str, Labels], Sequence[str] | None]:
    """Labels as numbers, and the names of the classes where there are any."""
    if not columns.text:
        return {part: labels_of(values, where) for part, values in given.items()}, columns.classes
    names = sorted({str(value) for values in given.values() for value in values})
    number = {name: label for label, name in enumerate(names)}
    return {part: np.array([number[str(v)] for v in values], dtype=np.int64) for part, values in given.items()}, names
