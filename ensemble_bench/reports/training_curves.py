"""Evaluation points during training: one series a run, and the paper's own way of cleaning and averaging them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.errors import RecordError
from ensemble_bench.records import Threat, trained_anew, training_of
from ensemble_bench.records import curves as files
from ensemble_bench.records.training import RUN_FILE, run_of
from ensemble_bench.registry import RECIPES
from ensemble_bench.reports.groups import Group

METRICS = ("clean", *files.ATTACKS)
CURVES_FILE = "curves.csv"
WINDOW = 50
ROUNDING = 1e-12
POINTS = 1000
LAST = 10  # evaluation points that Table 1a averages

Series = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracies (fractions of `n` validation images) of one run at the training steps `step`, by metric.

    `seeds` are those of the run; for a mean over runs, of all of them, and `sd` holds the spread. `finished` is False
    while the run has steps to go; `overfitted` is the step from which it overfitted to single steps, None where it did
    not. `n` is None where it is not known; `training`, `network` and `data_hash` are what run.json says.
    """

    group: Group
    recipe: str
    run: str
    seeds: tuple[int, ...]
    n: int | None
    finished: bool
    step: Series
    accuracy: Mapping[str, Series]
    sd: Mapping[str, Series] | None = None
    training: Mapping[str, Any] | None = None
    network: Mapping[str, Any] | None = None
    data_hash: str | None = None
    folder: Path | None = None
    overfitted: int | None = None

    @property
    def tag(self) -> str:
        """A name that no other run below the same root has."""
        return self.run

    @property
    def where(self) -> str:
        """Path of the run's folder."""
        return self.run

    @property
    def suffix(self) -> str:
        """Nothing: a curve is of a run, not of one of its checkpoints."""
        return ""

    @property
    def alike(self) -> Mapping[str, Any]:
        """The network, the number of images, and whether all of its points are there."""
        return {
            "network": self.network or {},
            "data": self.data_hash,
            "validation images": self.n,
            "trained": "to the end" if self.finished else "in part",
        }

    @property
    def preference(self) -> tuple[Any, ...]:
        """The folder nearest to the root stands."""
        return self.run.count("/"), self.run


def read_curves(root: Path) -> list[Curve]:
    """Read every curves.csv below `root` that holds a row, with the run.json beside it, in the order of their paths.

    Raises RecordError where either is broken or run.json is missing.
    """
    root = Path(root).resolve()
    curves = (_read(path, root) for path in sorted(root.rglob(CURVES_FILE)))
    return [curve for curve in curves if curve is not None]


def last_mean(curve: Curve, metric: str, points: int = LAST) -> float:
    """Return the mean of the last `points` evaluation points, of all of them where there are fewer."""
    return float(curve.accuracy[metric][-points:].mean())


def without_outliers(values: Series, window: int = WINDOW) -> Series:
    """Replace outliers by the centred rolling median, as the paper does (section 4.3).

    An outlier's distance to the median exceeds the mean of these distances by more than three of their standard
    deviations (sample, n − 1). At the edges the window holds the points that there are.
    """
    import pandas as pd

    smooth = pd.Series(values).rolling(window, center=True, min_periods=1).median().to_numpy(dtype=np.float64)
    distance = np.abs(values - smooth)
    limit = distance.mean() + 3 * (distance.std(ddof=1) if len(values) > 1 else 0.0)
    # Where all distances are equal, their mean may round to less than each of them.
    return np.where(distance > limit + ROUNDING, smooth, values)


def count_outliers(curve: Curve) -> int:
    """Count the points of all metrics that the paper's cleaning replaces."""
    return sum(int((without_outliers(curve.accuracy[m]) != curve.accuracy[m]).sum()) for m in METRICS)


def as_paper(runs: Sequence[Curve], points: int = POINTS) -> Curve:
    """Average the runs of one recipe over seeds by the paper's procedure (section 4.3).

    Each series loses its outliers, is interpolated linearly to the same `points` time-steps (equally spaced over the
    steps that all runs have), and the series of all seeds are averaged.
    """
    first, last = max(run.step[0] for run in runs), min(run.step[-1] for run in runs)
    if first > last:
        raise RecordError(f"{', '.join(run.run for run in runs)}: these runs have no training steps in common")
    grid = np.linspace(first, last, points)
    return _average(runs, grid, {run.run: {m: without_outliers(run.accuracy[m]) for m in METRICS} for run in runs})


def average(runs: Sequence[Curve]) -> Curve:
    """Average the runs of one recipe over seeds at the evaluation points within the steps that all of them have."""
    first, last = max(run.step[0] for run in runs), min(run.step[-1] for run in runs)
    if first > last:
        raise RecordError(f"{', '.join(run.run for run in runs)}: these runs have no training steps in common")
    grid = np.unique(np.concatenate([run.step[(run.step >= first) & (run.step <= last)] for run in runs]))
    return _average(runs, grid, {run.run: run.accuracy for run in runs})


def _average(runs: Sequence[Curve], grid: Series, values: Mapping[str, Mapping[str, Series]]) -> Curve:
    at_grid = {m: np.stack([np.interp(grid, run.step, values[run.run][m]) for run in runs]) for m in METRICS}
    several = len(runs) > 1
    return Curve(
        group=runs[0].group,
        recipe=runs[0].recipe,
        run=runs[0].recipe if several else runs[0].run,
        seeds=tuple(seed for run in runs for seed in run.seeds),
        n=runs[0].n if len({run.n for run in runs}) == 1 else None,
        finished=all(run.finished for run in runs),
        step=grid,
        accuracy={m: at_grid[m].mean(axis=0) for m in METRICS},
        sd={m: at_grid[m].std(axis=0, ddof=1) for m in METRICS} if several else None,
    )


def _read(path: Path, root: Path) -> Curve | None:
    rows = files.read(path)
    if not rows:
        return None
    about = _about(path.with_name(RUN_FILE))
    for row in rows:
        for metric in METRICS:
            if not 0.0 <= row[metric] <= 1.0:
                raise RecordError(
                    f"{path}: {metric} at step {row['step']} is {row[metric]}, expected a fraction in [0, 1]"
                )
    step = np.array([row["step"] for row in rows], dtype=np.float64)
    if (np.diff(step) <= 0).any():
        raise RecordError(f"{path}: the steps do not ascend")
    steps, wanted = about.pop("steps"), about.pop("wanted_n")
    if about["n"] is None and wanted is not None and _counts(rows, wanted):
        about["n"] = wanted
    attacked = about["recipe"] not in RECIPES or RECIPES[about["recipe"]].adversarial
    return Curve(
        **about,
        overfitted=files.catastrophic_overfitting(rows, about["n"]) if attacked and about["n"] else None,
        folder=path.parent,
        run=path.parent.name if path.parent == root else path.parent.relative_to(root).as_posix(),
        finished=bool(step[-1] >= steps),
        step=step,
        accuracy={metric: np.array([row[metric] for row in rows], dtype=np.float64) for metric in METRICS},
    )


def _counts(rows: Sequence[files.Row], n: int) -> bool:
    """Whether all accuracies are counts of `n` images: where the split was smaller, runs from before were of fewer."""
    return all(abs(row[metric] * n - round(row[metric] * n)) < 1e-6 * n for row in rows for metric in METRICS)


def _about(path: Path) -> dict[str, Any]:
    """Return what run.json says about its run, or raise RecordError naming the field that it lacks."""
    try:
        run = run_of(path.read_bytes())
        threat = run["threat"]
        group = Group(
            data_name=str(run["data_name"]),
            preset=str(run["preset"]),
            threat=Threat(norm=str(threat["norm"]), eps=float(threat["eps"])),
        )
        n, wanted = run.get("validation_n"), (run.get("settings") or {}).get("evaluate_n")
        for name, value in (("validation_n", n), ("settings.evaluate_n", wanted)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}: expected a number of images, got {value!r}")
        return {
            "group": group,
            "recipe": str(run["recipe"]),
            "seeds": tuple(int(seed) for seed in run["seeds"]),
            "n": n,
            "wanted_n": wanted,
            "steps": int(run["steps"]),
            "training": training_of(run),
            "network": run.get("architecture"),
            "data_hash": run.get("data_hash"),
        }
    except OSError as error:
        raise RecordError(f"{path}: cannot read which run the curves belong to ({error.strerror})") from None
    except KeyError as error:
        raise RecordError(f"{path}: missing field {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: not a run's description ({error}); {trained_anew(path.parent)}") from None
