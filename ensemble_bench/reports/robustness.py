"""The robustness curve: worst-case accuracy of each model over the size of the perturbation."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble_bench.records import CleanScore, Record, RobustScore, Threat
from ensemble_bench.records.table import Table, Value
from ensemble_bench.records.text import seeds_text
from ensemble_bench.reports.figures.lines import Line, Panel
from ensemble_bench.reports.groups import Scored, best_models, by_recipe, grouped

MARKERS = "os^Dv"  # tell seeds of one recipe apart


@dataclass(frozen=True, kw_only=True, order=True)
class Setting:
    """What the evaluations of a panel have in common."""

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
class Sweep:
    """A model's evaluations by ascending eps, at least two, of the same images with the same suite."""

    records: tuple[Record, ...]

    @property
    def recipe(self) -> str:
        """Recipe of the model, or its own name."""
        return Scored(record=self.records[0]).recipe

    @property
    def run(self) -> str:
        """Name of the run that made the model."""
        return self.records[0].run

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the model."""
        return self.records[0].seeds

    @property
    def tag(self) -> str:
        """A name that no other model has."""
        return f"{self.run} ({self.records[0].id[:8]})"

    def points(self) -> Iterator[tuple[float, CleanScore | RobustScore]]:
        """Every eps with the score there; 0 is no attack at all."""
        yield 0.0, self.records[0].clean
        for record in self.records:
            yield record.threat.eps, record.robust


def sweeps(records: Iterable[Record]) -> dict[Setting, list[Sweep]]:
    """Collect models that were attacked at two eps or more: the best checkpoints, and those of no training.

    Of several evaluations at one eps the lowest accuracy stands: each of them bounds the model's from above.
    """
    found: dict[Setting, list[Sweep]] = {}
    for setting, same in grouped(best_models(records), _setting).items():
        for own in grouped(same, lambda record: (record.model, record.weights_hash)).values():
            chosen = [
                min(at_eps, key=lambda record: (record.robust.robust, record.id))
                for at_eps in grouped(own, lambda record: record.threat.eps).values()
            ]
            if len(chosen) > 1:
                found.setdefault(setting, []).append(Sweep(records=tuple(chosen)))
    return found


def robustness_panels(records: Iterable[Record]) -> list[Panel]:
    """A panel a setting, a line a model, with the 95 % interval at every eps."""
    return [_panel(setting, runs) for setting, runs in sweeps(records).items()]


def robustness_tables(records: Iterable[Record]) -> list[Table]:
    """The points of the figure, a row a model and eps: 0 is clean."""
    return [_table(setting, runs) for setting, runs in sweeps(records).items()]


def _setting(record: Record) -> Setting:
    return Setting(
        data_name=record.data_name,
        preset=record.preset or "",
        norm=record.threat.norm,
        suite=record.suite,
        split=record.split,
        n=record.n,
    )


def _labelled(runs: Sequence[Sweep]) -> Mapping[str, tuple[Sweep, str]]:
    """Each model and its marker under a label of its own, in the paper's order."""
    return {
        (f"{label}, seed {seeds_text(run.seeds)}" if len(members) > 1 else label): (run, MARKERS[i % len(MARKERS)])
        for label, members in by_recipe(runs).items()
        for i, run in enumerate(members)
    }


def _panel(setting: Setting, runs: Sequence[Sweep]) -> Panel:
    # Radii in linf are steps of 8-bit images; others are plain numbers.
    scale, unit = (255, "eps (in 255ths)") if setting.norm == "linf" else (1, "eps")
    sizes = sorted({eps for run in runs for eps, _ in run.points()})
    return Panel(
        title=str(setting),
        x_label=unit,
        y_label=f"worst-case accuracy, {setting.split}, n = {setting.n} (%)",
        lines=tuple(_line(label, run, marker, scale) for label, (run, marker) in _labelled(runs).items()),
        band="95 % interval",
        ticks=tuple(_round(scale * eps) for eps in sizes) if len(sizes) <= 9 else (),
    )


def _line(label: str, run: Sweep, marker: str, scale: int) -> Line:
    x, scores = zip(*run.points(), strict=True)
    return Line(
        label=label,
        look=run.recipe,
        x=np.array([_round(scale * eps) for eps in x]),
        y=np.array([score.accuracy for score in scores]),
        band=(np.array([score.ci_low for score in scores]), np.array([score.ci_high for score in scores])),
        marker=marker,
    )


def _round(value: float) -> float:
    """`value`, or the whole number that it misses by a rounding error alone."""
    return float(round(value)) if math.isclose(value, round(value), rel_tol=1e-6) else value


def _table(setting: Setting, runs: Sequence[Sweep]) -> Table:
    rows = [
        (label, run.run, seeds_text(run.seeds), _eps(setting, eps), _value(score))
        for label, (run, _) in _labelled(runs).items()
        for eps, score in run.points()
    ]
    keys = ("model", "run", "seeds", "eps", "robust_accuracy")
    return Table(
        name="robustness_curve",
        title="Worst-case accuracy over eps",
        caption=f"{setting}, {setting.split} split, n = {setting.n}. Accuracies in percent with 95 % intervals.",
        columns=("model", "run", "seeds", "eps", "worst case [95 %]"),
        keys=keys,
        rows=tuple(rows),
        about={
            "data_name": setting.data_name,
            "preset": setting.preset,
            "norm": setting.norm,
            "suite": setting.suite,
            "split": setting.split,
            "n": str(setting.n),
        },
    )


def _eps(setting: Setting, eps: float) -> str:
    return Threat(norm=setting.norm, eps=eps).shown_eps if eps else "0"


def _value(score: CleanScore | RobustScore) -> Value:
    return Value(accuracy=score.accuracy, ci_low=score.ci_low, ci_high=score.ci_high)
