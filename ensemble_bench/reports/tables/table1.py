"""Tables 1a, 1b and 1c of Grefenstette et al. (2018), for the runs and records that there are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ensemble_bench.records import Record
from ensemble_bench.records.statistics import mean_sd
from ensemble_bench.records.table import Cell, Table, Value
from ensemble_bench.records.text import carried_eps, seeds_text
from ensemble_bench.reports.groups import (
    Group,
    Run,
    Scored,
    all_seeds,
    best_models,
    by_recipe,
    conditions,
    group_columns,
    group_of,
    grouped,
)
from ensemble_bench.reports.training_curves import LAST, METRICS, POINTS, WINDOW, Curve, as_paper, last_mean

ATTACKS_B = ("ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox")
ATTACKS_C = ("ifgsm500", "pgd500")
HEADINGS = {"blackbox": "black box", "worst_case": "worst case [95 %]"}

R = TypeVar("R", bound=Run)
Cells = Mapping[str, Value | None]
Row = tuple[Cell, ...]


def table_1a(curves: Iterable[Curve], records: Iterable[Record], *, paper: bool = False) -> list[Table]:
    """Mean of the last 10 evaluation points of training: a table a group, a row a run.

    The black-box column comes from the record of a run's `last` checkpoint, where there is one. With `paper` the series
    go through the paper's own procedure (section 4.3), which makes one row of all seeds of a recipe.
    """
    curves = list(curves)
    end = {curve.run: curve.step[-1] for curve in curves if curve.finished}
    # `evaluate` scores one of two checkpoints of equal weights: one of the last step stands for `last`.
    last = [
        r
        for r in records
        if (r.checkpoint == "last" or (r.checkpoint == "best" and r.step is not None and r.step == end.get(r.run)))
        and r.suite == "paper"
        and r.view is None
        and carried_eps(r) is None
    ]
    tables = []
    for group, runs in grouped(curves, lambda curve: curve.group).items():
        known = _blackbox(record for record in last if group_of(record) == group)
        keys = (*METRICS, "blackbox") if any(run.run in known for run in runs) else METRICS
        rows = _paper_rows(runs, keys, known) if paper else _rows(runs, keys, _cells_of_curve(known))
        title = f"Table 1a: mean of the last {LAST} evaluation points"
        caption = " ".join(_caption_1a(group, runs, blackbox="blackbox" in keys, paper=paper))
        tables.append(_table("table1a", title, caption, keys, rows, group_columns(group) | {"split": "validation"}))
    return tables


def table_1b(records: Iterable[Record]) -> list[Table]:
    """Accuracies of each run's best checkpoint (highest ifgsm5 on the validation split) under the suite `paper`."""
    return _table_of_records(records, "paper", "table1b", "Table 1b: at the best ifgsm5 point", ATTACKS_B)


def table_1c(records: Iterable[Record]) -> list[Table]:
    """Accuracies of each run's best checkpoint after 500 attack steps, the suite `paper500`."""
    return _table_of_records(records, "paper500", "table1c", "Table 1c: after 500 attack steps", ATTACKS_C)


def _table_of_records(
    records: Iterable[Record], suite: str, name: str, title: str, attacks: tuple[str, ...]
) -> list[Table]:
    """Build a table for every group of records that saw the same number of images of the same split."""
    chosen = [Scored(record=r) for r in best_models(records) if r.suite == suite]
    keys = ("clean", *attacks, "worst_case")
    tables = []
    for (group, split, n, carried), runs in grouped(chosen, _key).items():
        sentences = [conditions(group, runs, split, n, carried or None)]
        sentences.append("Accuracies in percent; worst case: over all attacks, per image.")
        kept = sorted({a.n for s in runs for a in s.record.attacks if a.name == "blackbox"})
        if kept and "blackbox" in attacks:
            sentences.append(f"Black box: on the {_or(kept)} of these images that fooled all surrogates.")
        rows = _rows(runs, keys, lambda scored: _cells_of_record(scored.record, attacks))
        about = group_columns(group, carried or None) | {"split": split, "n": str(n)}
        tables.append(_table(name, title, " ".join(sentences), keys, rows, about))
    return tables


def _key(scored: Scored) -> tuple[Group, str, int, float]:
    record = scored.record
    return group_of(record), record.split, record.n, carried_eps(record) or 0.0


def _table(
    name: str, title: str, caption: str, keys: Sequence[str], rows: Iterable[Row], about: Mapping[str, str]
) -> Table:
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=("model", "seeds", *(HEADINGS.get(key, key) for key in keys)),
        keys=("model", "seeds", *keys),
        rows=tuple(rows),
        about=about,
    )


def _rows(runs: Iterable[R], keys: Sequence[str], cells: Callable[[R], Cells]) -> list[Row]:
    """A row a run, in the paper's order; before the rows of several seeds stands their mean ± sd."""
    rows: list[Row] = []
    for label, members in by_recipe(runs).items():
        values = [cells(run) for run in members]
        if len(members) > 1:
            seeds = f"mean of {all_seeds(members)}"
            rows.append((label, seeds, *(_mean([value[key] for value in values]) for key in keys)))
        for run, value in zip(members, values, strict=True):
            rows.append((label, seeds_text(run.seeds), *(value[key] for key in keys)))
    return rows


def _paper_rows(runs: Iterable[Curve], keys: Sequence[str], blackbox: Cells) -> list[Row]:
    """A row a recipe: the last points of the cleaned series' mean over seeds."""
    rows: list[Row] = []
    for label, members in by_recipe(runs).items():
        merged = as_paper(members)
        cells: dict[str, Value | None] = {metric: Value(accuracy=last_mean(merged, metric)) for metric in METRICS}
        known = _mean([blackbox.get(run.run) for run in members])
        cells["blackbox"] = Value(accuracy=known.accuracy) if known else None
        rows.append((label, all_seeds(members), *(cells[key] for key in keys)))
    return rows


def _mean(values: Sequence[Value | None]) -> Value | None:
    """Mean ± sd over seeds, None unless every seed has a value: a mean over some would pass for one over all."""
    present = [value.accuracy for value in values if value is not None]
    if len(present) < len(values):
        return None
    spread = mean_sd(present)
    return Value(accuracy=spread.mean, sd=spread.sd)


def _cells_of_curve(blackbox: Cells) -> Callable[[Curve], Cells]:
    def cells(curve: Curve) -> Cells:
        points: dict[str, Value | None] = {metric: Value(accuracy=last_mean(curve, metric)) for metric in METRICS}
        return points | {"blackbox": blackbox.get(curve.run)}

    return cells


def _cells_of_record(record: Record, attacks: Sequence[str]) -> Cells:
    results = {attack.name: attack.accuracy for attack in record.attacks}
    known = {name: results.get(name) for name in attacks}
    return {
        "clean": Value(accuracy=record.clean.accuracy),
        **{name: None if accuracy is None else Value(accuracy=accuracy) for name, accuracy in known.items()},
        "worst_case": Value.of(record.robust),
    }


def _blackbox(records: Iterable[Record]) -> dict[str, Value | None]:
    """Black-box accuracies by run; where a run has several records, that on the most images."""
    accuracies: dict[str, Value | None] = {}
    for record in sorted(records, key=lambda record: (record.n, record.checkpoint == "last")):
        attack = record.attack("blackbox")
        if attack is not None and attack.accuracy is not None:
            accuracies[record.run] = Value(accuracy=attack.accuracy)
    return accuracies


def _caption_1a(group: Group, runs: Sequence[Curve], *, blackbox: bool, paper: bool) -> Iterable[str]:
    """Sentences that say what the numbers of Table 1a are."""
    ns = {run.n for run in runs}
    yield conditions(group, runs, "validation", ns.pop() if len(ns) == 1 else None)
    yield "Accuracies in percent."
    if paper:
        yield (
            f"As in the paper: outliers (3 standard deviations from a rolling median of {WINDOW}) replaced, "
            f"interpolated to {POINTS} time-steps, averaged over seeds, mean of the last {LAST} of these."
        )
    elif short := [run for run in runs if len(run.step) < LAST]:
        yield f"Fewer points: {', '.join(f'{run.run} has {len(run.step)}' for run in short)}."
    if blackbox:
        yield "Black box: the last checkpoint on the images of its record, not a mean over points."


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
