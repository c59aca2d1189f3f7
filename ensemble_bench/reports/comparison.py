"""Models compared on the same images: every difference with its interval, p-values corrected for their number."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.kinds import takes
from ensemble_bench.records import Record, find_records, read_record
from ensemble_bench.records.contrasts import MIN_SEEDS, Contrast, contrast, holm, paired, seed_variance
from ensemble_bench.records.store import RECORD_FILE
from ensemble_bench.records.table import Table, Value
from ensemble_bench.registry import models_folder
from ensemble_bench.reports.groups import headline_models
from ensemble_bench.reports.worst_cases import Family, Row, arrays_of, attacked_alike, most_images, robust_accuracy

COLUMNS = {
    "suite": "suite",
    "left": "left",
    "left_accuracy": "left %",
    "right": "right",
    "right_accuracy": "right %",
    "images": "images",
    "difference": "difference",
    "only_left": "only left",
    "only_right": "only right",
    "about": "about",
    "p_value": "p",
    "p_holm": "p, corrected",
}
RECIPES, WEIGHTS = "recipes", "weights"
"""What a p-value speaks of."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rows on the same images: the difference of robust accuracies, left less right, as fractions.

    `scores` are the accuracies, each with its interval for the images and, of several seeds, their spread. With
    `MIN_SEEDS` seeds or more on both sides the `contrast` is over seeds and images, and speaks of the recipes; with one
    model each it is over images, and speaks of these weights alone; otherwise there is none. `only` counts the images
    that only the left and only the right model withstood, where there is one model each that answers the same every
    time. `about` is what the contrast speaks of, `p_holm` corrected over all comparisons that were made together.
    """

    family: Family
    left: Row
    right: Row
    images: int
    scores: tuple[Value, Value]
    contrast: Contrast | None
    only: tuple[int, int] | None
    about: str | None
    p_holm: float | None = None

    @property
    def accuracies(self) -> tuple[float, float]:
        """Robust accuracies of the left and of the right."""
        left, right = self.scores
        return left.accuracy, right.accuracy


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All pairs of rows that were attacked alike, and notes on what had no partner."""

    table: Table
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def records_at(models: Iterable[Any], *, runs: str | Path = "runs") -> list[Record]:
    """The records of `models`: paths of a record, a run, or a folder of either; names of models that were evaluated.

    Records and results of evaluations stand for themselves. Of a run counts its headline checkpoint, unless a path
    names the record itself; those of a model from elsewhere lie under `runs`. Each counts once. Raises RecordError for
    a broken record; InvalidValueError where there are none, and for a record that is kept nowhere.
    """
    try:
        models = [] if isinstance(models, str | Path | Record) else list(models)
    except TypeError:
        models = []
    if not models:
        raise InvalidValueError("models are none: expected a list of runs, records or results of evaluations")
    found: dict[Path, Record] = {}
    for model in models:
        record = getattr(model, "record", model)
        if isinstance(record, Record):
            if record.path is None:
                raise InvalidValueError(
                    f"{record.model} was scored in memory alone: evaluate it with out=, to compare it"
                )
            found[record.path.resolve()] = record
            continue
        if not isinstance(model, str | Path):
            told = type(model).__name__
            raise InvalidValueError(f"a model is a {told}: expected a run, a record or the result of an evaluation")
        path = _place_of(model, Path(runs))
        if not path.exists():
            raise InvalidValueError(
                f"{model} does not exist, nor are there records of a model of that name under {runs}: expected a run, "
                "a record, a folder of these, or the name that a model was evaluated by"
            )
        named = path.is_file() or (path / RECORD_FILE).is_file()
        records = [read_record(path)] if named else headline_models(find_records(path))
        if not records:
            raise InvalidValueError(f"{path} holds no record: `ensemble-bench evaluate` makes them")
        found |= {record.path.resolve(): record for record in records if record.path is not None}
    return list(found.values())


def _place_of(model: str | Path, runs: Path) -> Path:
    """A path with records, or else where those of the model lie that is named so: it may be a path without any."""
    path, home = Path(model), models_folder(runs, str(model))
    has_records = path.suffix == ".json" if path.is_file() else next(path.rglob(RECORD_FILE), None) is not None
    return path if has_records or not home.exists() else home


@takes
def compare(models: Iterable[Any], *, suite: str | None = None, runs: str | Path = "runs") -> Comparison:
    """Compare every two rows of models that were attacked alike, under `suite` or each that there is.

    `models` are as in `records_at`. Models that differ by their seed alone are one row. Raises InvalidValueError where
    no two were attacked alike, and RecordError when the samples beside a record are missing or contradict it.
    """
    records = records_at(models, runs=runs)
    suites = sorted({record.suite for record in records})
    if suite is not None and suite not in suites:
        raise InvalidValueError(f"suite is {suite!r}: these records are of {', '.join(suites)}")
    families = attacked_alike(record for record in records if suite in (None, record.suite))
    pairs = [pair for family in families for pair in _pairs(family)]
    if not pairs:
        kinds = "; ".join(f"{_name(row)} ({family.where})" for family in families for row in _rows(family))
        raise InvalidValueError(f"no two of these were attacked alike, on the same data and threat: {kinds}")
    pairs = _corrected(pairs)
    return Comparison(table=_table(pairs), pairs=tuple(pairs), notes=tuple(_notes(families)))


def _rows(family: Family) -> list[Row]:
    return [row for rows in family.rows.values() for row in rows]


def _pairs(family: Family) -> list[Pair]:
    """All pairs of a family, the more robust row on the left."""
    rows = _rows(family)
    arrays = arrays_of(rows)
    found = []
    for a, b in combinations(rows, 2):
        (left,), (right,), ids = most_images([a], [b])
        sides = sorted((left, right), key=lambda row: -row.on(ids).mean())
        robust = [row.on(ids) for row in sides]
        only, test = None, None
        single = all(len(side) == 1 for side in robust)
        if single:
            one, other = robust[0][0], robust[1][0]
            test = paired(one, other)
            if one.dtype == other.dtype == np.bool_:
                only = int((one > other).sum()), int((other > one).sum())
        elif all(len(side) >= MIN_SEEDS for side in robust):
            test = contrast([robust[0]], [robust[1]], pooled=seed_variance(arrays, least=len(ids)))
        found.append(
            Pair(
                family=family,
                left=sides[0],
                right=sides[1],
                images=len(ids),
                scores=(robust_accuracy([robust[0]]), robust_accuracy([robust[1]])),
                contrast=test,
                only=only,
                about=None if test is None else WEIGHTS if single else RECIPES,
            )
        )
    return found


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    """Correct the p-values over all pairs that have one."""
    corrected = iter(holm([pair.contrast.p_value for pair in pairs if pair.contrast is not None]))
    return [pair if pair.contrast is None else replace(pair, p_holm=next(corrected)) for pair in pairs]


def _table(pairs: Sequence[Pair]) -> Table:
    tested = sum(pair.contrast is not None for pair in pairs)
    caption = (
        "Robust accuracies in %, worst case over the attacks of the suite, on the same images, with the 95 % Wilson "
        "interval of the images and ± sd over seeds; differences in points, with 95 % intervals; "
        f"p-values corrected (Holm) over {tested} comparison{'s' if tested != 1 else ''}. "
        f"{RECIPES.capitalize()} are compared over seeds and images, which takes {MIN_SEEDS} seeds on both sides; "
        f"{WEIGHTS}, one model against one, over images alone (McNemar's exact test), which says nothing of recipes."
    )
    if any(pair.about == WEIGHTS and pair.only is None for pair in pairs):
        caption += " Of a model that answers at random it is the expected accuracy (Student's test)."
    suites = {pair.family.where: pair.family.suite for pair in pairs}
    # Of one suite there may be pairs at two eps, or under other conditions.
    under = {where: suite if list(suites.values()).count(suite) == 1 else where for where, suite in suites.items()}
    groups = "; ".join(dict.fromkeys(f"{pair.family.group}, {pair.family.split} split" for pair in pairs))
    return Table(
        name="comparison",
        title=f"Robust accuracy compared: {groups}",
        caption=caption,
        columns=tuple(COLUMNS.values()),
        keys=tuple(COLUMNS),
        rows=tuple((under[pair.family.where], *_cells(pair)) for pair in pairs),
    )


def _cells(pair: Pair) -> tuple[str | int | Value | None, ...]:
    test = pair.contrast
    left, right = pair.scores
    low, high = (None, None) if test is None else (test.ci_low, test.ci_high)
    gap = Value(accuracy=pair.accuracies[0] - pair.accuracies[1], ci_low=low, ci_high=high)
    only = pair.only or (None, None)
    p_values = (None if p is None else f"{p:.4g}" for p in (test.p_value if test else None, pair.p_holm))
    sides = (_name(pair.left), left, _name(pair.right), right)
    return (*sides, pair.images, gap, *only, pair.about, *p_values)


def _name(row: Row) -> str:
    """Name a row by its label and its seeds, where its models have any."""
    seeds = "" if not row.seeds else f" (seed{'s' if len(row.runs) > 1 else ''} {row.seeds})"
    return f"{row.label}{seeds}"


def _notes(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        rows = _rows(family)
        if len(rows) == 1:
            yield f"Not compared: {_name(rows[0])}, as nothing else was attacked alike: {family.where}."
        for row in rows:
            for run in row.again:
                yield f"Not counted: {run.where}, as another run of its row has its seed: {family.where}."
