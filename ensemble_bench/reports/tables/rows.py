"""The rows of a table of runs: a row a run, and before the rows of several seeds their mean."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ensemble_bench.records.statistics import mean_sd
from ensemble_bench.records.table import Cell, Mean, Value
from ensemble_bench.records.text import seeds_text
from ensemble_bench.reports.alike import rows_of
from ensemble_bench.reports.groups import Run, all_seeds

R = TypeVar("R", bound=Run)
Number = Value | int | None
Cells = Mapping[str, Number]


def table_rows(runs: Iterable[R], keys: Sequence[str], cells: Callable[[R], Cells]) -> list[tuple[Cell, ...]]:
    """Return label, seeds and the cells of `keys` for every run, rows in the paper's order, means ± sd first."""
    rows: list[tuple[Cell, ...]] = []
    for row in rows_of(runs):
        values = [cells(run) for run in row.runs]
        if len(row.runs) > 1:
            means = (mean_of([value[key] for value in values]) for key in keys)
            rows.append((row.label, f"mean of {all_seeds(row.runs)}", *means))
        for label, run in row.every():
            own = cells(run)
            rows.append((label, seeds_text(run.seeds), *(own[key] for key in keys)))
    return rows


def mean_of(values: Sequence[Number]) -> Cell:
    """Return mean ± sd over seeds, None unless every seed has a value: a mean over some would pass for one over all."""
    numbers = [value.accuracy if isinstance(value, Value) else value for value in values]
    present = [number for number in numbers if number is not None]
    if not present or len(present) < len(values):
        return None
    spread = mean_sd(present)
    if all(isinstance(value, Value) for value in values):
        return Value(accuracy=spread.mean, sd=spread.sd)
    return Mean(mean=spread.mean, sd=spread.sd)
