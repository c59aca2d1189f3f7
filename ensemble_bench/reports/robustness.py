"""The robustness curve: worst-case accuracy of each model over the size of the perturbation."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble_bench.records import CleanScore, Record, RobustScore, Threat, folder_of
from ensemble_bench.records.table import Cell, Table, Value
from ensemble_bench.records.text import carried_eps, seeds_text
from ensemble_bench.reports.alike import Row, flat, rows_of
from ensemble_bench.reports.figures.lines import Line, Panel
from ensemble_bench.reports.groups import OfScored, Scored, all_seeds, grouped, scored_models
from ensemble_bench.reports.tables.rows import mean_of

BANDS = {False: "95 % interval", True: "mean ± sd over seeds"}  # of one model, of several seeds


@dataclass(frozen=True, kw_only=True, order=True)
class SweepGroup:
    """Data set, preset, norm, suite and images: what the evaluations of one panel share."""

    data_name: str
    preset: str
    norm: str
    suite: str
    split: str
    n: int

    def __str__(self) -> str:
        preset = f", preset {self.preset}" if self.preset else ""
        return f"{self.data_name}{preset}, {self.norm}, suite {self.suite}"


@dataclass(frozen=True, kw_only=True)
class Sweep(OfScored):
    """A model's evaluations by ascending eps, at least two, of the same images with the same suite."""

    records: tuple[Record, ...]

    @property
    def alike(self) -> Mapping[str, Any]:
        """The sizes of eps, and what the records have to share: a value, or one an eps where they differ."""
        each = [flat({**Scored(record=r).alike, "carried eps": carried_eps(r)}) for r in self.records]
        values = {key: [about.get(key) for about in each] for about in each for key in about}
        at = {"at": ", ".join(record.threat.eps_text for record in self.records)}
        return at | {k: v[0] if v.count(v[0]) == len(v) else " / ".join(map(str, v)) for k, v in values.items()}

    @property
    def preference(self) -> tuple[Any, ...]:
        """As records: the folder nearest to the root stands."""
        return self.scored.preference

    def points(self) -> Iterator[tuple[float, CleanScore | RobustScore]]:
        """Every eps with the score there; 0 is no attack at all."""
        yield 0.0, self.records[0].clean
        for record in self.records:
            yield record.threat.eps, record.robust


def sweeps(records: Iterable[Record]) -> dict[SweepGroup, list[Sweep]]:
    """Collect models that were attacked at two eps or more: the headline checkpoints, and those of no training.

    Of several evaluations at one eps the lowest accuracy stands: each of them bounds the model's from above.
    """
    groups: dict[SweepGroup, list[Sweep]] = {}
    for group, same in grouped(scored_models(records), lambda scored: _group_of(scored.record)).items():
        for own in grouped(same, _model_of).values():
            chosen = [
                min(at_eps, key=lambda scored: (scored.record.robust.accuracy, scored.record.id))
                for at_eps in grouped(own, lambda scored: scored.record.threat.eps).values()
            ]
            if len(chosen) > 1:
                made = Sweep(records=tuple(scored.record for scored in chosen), scored=chosen[0])
                groups.setdefault(group, []).append(made)
    return groups


def robustness_panels(records: Iterable[Record]) -> list[Panel]:
    """A panel a group, a line a model with the 95 % interval at every eps, or the mean of its seeds ± sd."""
    return [_panel(group, runs) for group, runs in sweeps(records).items()]


def robustness_tables(records: Iterable[Record]) -> list[Table]:
    """The points of the figure, a row a model and eps, those of every seed too: 0 is clean."""
    return [_table(group, runs) for group, runs in sweeps(records).items()]


def _model_of(scored: Scored) -> tuple[str, str, str]:
    record, folder = scored.record, folder_of(scored.record)
    return record.model, record.weights_hash, "" if folder is None else folder.as_posix()


def _group_of(record: Record) -> SweepGroup:
    return SweepGroup(
        data_name=record.data_name,
        preset=record.preset or "",
        norm=record.threat.norm,
        suite=record.suite,
        split=record.split,
        n=record.n,
    )


def _panel(group: SweepGroup, runs: Sequence[Sweep]) -> Panel:
    # Radii in linf are steps of 8-bit images; others are plain numbers.
    scale, unit = (255, "eps (in 255ths)") if group.norm == "linf" else (1, "eps")
    sizes = sorted({eps for run in runs for eps, _ in run.points()})
    rows = rows_of(runs)
    several = {len(row.runs) > 1 for row in rows}
    lines = tuple(_line(row, scale) for row in rows)
    return Panel(
        title=_finding(lines),
        setting=f"{group}, {group.split} images, n = {group.n:,}",
        x_label=unit,
        y_label="worst-case accuracy (%)",
        lines=lines,
        band=" or ".join(BANDS[kind] for kind in sorted(several)),
        ticks=tuple(_round(scale * eps) for eps in sizes),
    )


def _finding(lines: Sequence[Line]) -> str:
    """Which line is highest at the most sizes that all have, without an attack not counted."""
    if len(lines) == 1:
        (line,) = lines
        return f"{line.label} falls from {100 * line.y[0]:.1f} % to {100 * line.y[-1]:.1f} % at eps {line.x[-1]:g}"
    shared = sorted(set.intersection(*(set(line.x.tolist()) for line in lines)) - {0.0})
    at = [{line.label: float(line.y[line.x.tolist().index(eps)]) for line in lines} for eps in shared]
    if not at:
        return "No two models were attacked at one eps"
    wins = {line.label: sum(found[line.label] == max(found.values()) for found in at) for line in lines}
    best = max(wins, key=lambda label: wins[label])
    where = "at every eps" if wins[best] == len(at) else f"at {wins[best]} of {len(at)} eps"
    return f"{best} withstands most, {where}"


def _line(row: Row[Sweep], scale: int) -> Line:
    """A model with its 95 % intervals, or the mean over seeds ± sd."""
    first, *others = row.runs
    x, scores = zip(*first.points(), strict=True)
    if others:
        values = np.array([[score.accuracy for _, score in run.points()] for run in row.runs])
        y, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
        band = y - sd, y + sd
    else:
        y = np.array([score.accuracy for score in scores])
        band = np.array([score.ci_low for score in scores]), np.array([score.ci_high for score in scores])
    return Line(label=row.label, look=row.look, x=np.array([_round(scale * eps) for eps in x]), y=y, band=band)


def _round(value: float) -> float:
    """`value`, or the whole number that it misses by a rounding error alone."""
    return float(round(value)) if math.isclose(value, round(value), rel_tol=1e-6) else value


def _table(group: SweepGroup, runs: Sequence[Sweep]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in rows_of(runs):
        if len(row.runs) > 1:
            seeds = f"mean of {all_seeds(row.runs)}"
            for points in zip(*(run.points() for run in row.runs), strict=True):
                mean = mean_of([Value(accuracy=score.accuracy) for _, score in points])
                rows.append((row.label, None, seeds, _eps(group, points[0][0]), mean))
        for label, run in row.every():
            about = label, run.run, seeds_text(run.seeds)
            rows += [(*about, _eps(group, eps), Value.of(score)) for eps, score in run.points()]
    keys = ("model", "run", "seeds", "eps", "robust_accuracy")
    return Table(
        name="robustness_curve",
        title="Worst-case accuracy over eps",
        caption=f"{group}, {group.split} split, n = {group.n:,}. In percent; 95 % intervals, means ± sd over seeds.",
        columns=("model", "run", "seeds", "eps", "worst case [95 %]"),
        keys=keys,
        rows=tuple(rows),
        about={
            "data_name": group.data_name,
            "preset": group.preset,
            "norm": group.norm,
            "suite": group.suite,
            "split": group.split,
            "n": str(group.n),
        },
    )


def _eps(group: SweepGroup, eps: float) -> str:
    return Threat(norm=group.norm, eps=eps).eps_text if eps else "0"
