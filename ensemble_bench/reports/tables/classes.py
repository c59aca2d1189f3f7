"""Classes: how robust a model is on each, and what their images are taken for, clean and under attack."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ensemble_bench.records import Record, read_samples
from ensemble_bench.records.classes import Confusion, class_scores, confusion
from ensemble_bench.records.statistics import wilson_around
from ensemble_bench.records.table import Cell, Table, Value
from ensemble_bench.registry import strength_of
from ensemble_bench.reports.groups import told_apart

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "not known"


def strongest(records: Iterable[Record]) -> list[Record]:
    """Of every whole model, data and threat the record of the strongest suite, of several that of most images."""
    best: dict[tuple[object, ...], Record] = {}
    for record in told_apart(records):
        if record.view is None and record.path is not None:
            of = (record.model, record.weights_hash, record.data_hash, record.split, record.threat)
            if of not in best or _strength(record) > _strength(best[of]):
                best[of] = record
    return list(best.values())


def _strength(record: Record) -> tuple[int, int]:
    return strength_of(record.suite), record.n


def class_tables(records: Iterable[Record]) -> list[Table]:
    """A table a record, a row a class: images, clean accuracy, worst case, and the class most often taken for it."""
    return [_classes(record) for record in records]


def _classes(record: Record) -> Table:
    samples = _samples(record)
    matrix = confusion(samples, attacked=True)
    rows = []
    for score in class_scores(samples):
        counts = matrix.counts[matrix.labels.index(score.label)]
        wrong = [(-count, label) for label, count in zip(matrix.labels, counts, strict=True) if label != score.label]
        most, other = min(wrong, default=(0, 0))
        taken = f"{other} ({-most})" if most else None
        rows.append((str(score.label), score.n, *(_value(k, score.n) for k in (score.correct, score.robust)), taken))
    return Table(
        name="classes",
        title=f"Classes: {_called(record)}",
        caption=(
            f"{_conditions(record)} Accuracies in percent with 95 % intervals; worst case: over all attacks, per "
            "image. Taken for: the wrong class that most of them end in under attack, and how many do."
        ),
        columns=("class", "n", "clean", "worst case", "taken for"),
        keys=("class", "images", "clean", "worst_case", "taken_for"),
        rows=tuple(rows),
        about=_about(record),
    )


def confusion_tables(records: Iterable[Record]) -> list[Table]:
    """Two tables a record, a row a class: how many images are taken for each class, clean and under attack."""
    return [table for record in records for table in _confusions(record)]


def _confusions(record: Record) -> Iterator[Table]:
    samples = _samples(record)
    for images, attacked in (("clean", False), ("attacked", True)):
        matrix = confusion(samples, attacked=attacked)
        told = "at the image that broke them, or clean where none did" if attacked else "clean"
        columns = [f"{label}" for label in matrix.labels] + ([UNKNOWN] if any(matrix.unknown) else [])
        yield Table(
            name="confusion",
            title=f"Confusion, {images}: {_called(record)}",
            caption=f"{_conditions(record)} Images of each class (rows), and what they are taken for, {told}.",
            columns=("class", *columns),
            keys=("class", *(column.replace(" ", "_") for column in columns)),
            rows=tuple(_counts(matrix, known=UNKNOWN not in columns)),
            about=_about(record) | {"images": images},
        )


def _counts(matrix: Confusion, *, known: bool) -> Iterator[tuple[Cell, ...]]:
    for label, counts, unknown in zip(matrix.labels, matrix.counts, matrix.unknown, strict=True):
        yield (str(label), *counts) if known else (str(label), *counts, unknown)


def _samples(record: Record) -> "pd.DataFrame":
    assert record.path is not None  # `strongest` keeps no others
    return read_samples(record.path.parent)


def _value(count: float, n: int) -> Value:
    low, high = wilson_around(count / n, n)
    return Value(accuracy=count / n, ci_low=low, ci_high=high)


def _called(record: Record) -> str:
    return f"{record.model} under {record.suite}"


def _conditions(record: Record) -> str:
    return f"{record.data_name}, {record.threat}, {record.split} split, n = {record.n:,}."


def _about(record: Record) -> dict[str, str]:
    threat = {"norm": record.threat.norm, "eps": record.threat.eps_text}
    return {"model": record.model, "suite": record.suite, "dataset": record.data_name, **threat, "n": str(record.n)}
