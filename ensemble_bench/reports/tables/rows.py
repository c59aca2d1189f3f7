"""The rows of a table of runs: a row a run, and before the rows of several seeds their mean."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ensemble_bench.records.statistics import mean_sd
from ensemble_bench.records.table import Cell, Mean, Value
from ensemble_bench.records.text import seeds_text
from ensemble_bench.reports.alike import rows_of
from ensemble_bench.reports.groups import Group, Run, all_seeds

R = TypeVar("R", bound=Run)
Number = Value | int | None
Cells = Mapping[str, Number]


def conditions(
    group: Group, runs: Iterable[Run], split: str, n: int | None, carried: float | None = None, *, spread: bool = True
) -> str:
    """Return what a caption says of images, threat and seeds, and of means over seeds unless these have no `spread`.

    `carried` is the smaller eps at which images fell that count as fallen here, None without one.
    """
    runs = list(runs)
    count = "" if n is None else f", n = {n:,}"
    seeds = all_seeds(runs)
    sentences = [f"{group}, {split} split{count}{f', seeds {seeds}' if seeds else ''}."]
    if carried is not None:
        smaller = replace(group.threat, eps=carried)
        sentences.append(f"Images that fell at {smaller} count as fallen under every attack.")
    if spread and any(len(row.runs) > 1 for row in rows_of(runs)):
        sentences.append("Mean ± sd over seeds.")
    return " ".join(sentences)


def table_rows(
    runs: Iterable[R], keys: Sequence[str], cells: Callable[[R], Cells], *, bounds: Container[str] = ()
) -> list[tuple[Cell, ...]]:
    """Return label, seeds and the cells of `keys` for every run, rows in the paper's order, means ± sd first.

    `bounds` are keys of what is an end of a model's interval, whose mean bounds nothing.
    """
    rows: list[tuple[Cell, ...]] = []
    for row in rows_of(runs):
        values = [cells(run) for run in row.runs]
        if len(row.runs) > 1:
            means = (None if key in bounds else mean_of([value[key] for value in values]) for key in keys)
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
