"""Figure 3 of Grefenstette et al. (2018): accuracy over the number of attack steps, doubled until it stops falling."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ensemble_bench.records import AttackResult, Record
from ensemble_bench.records.statistics import wilson_around
from ensemble_bench.reports.alike import Row, rows_of
from ensemble_bench.reports.figures.lines import Line, Panel
from ensemble_bench.reports.groups import all_seeds, grouped
from ensemble_bench.reports.run_parts import (
    ENSEMBLE,
    LOGIT,
    RunParts,
    doublings,
    name_without_steps,
    own_attacks,
    run_parts,
)

Points = list[tuple[int, float]]
MARGIN = "margin"
BANDS = {False: "95 % interval", True: "mean ± sd over seeds"}  # of one model, of several seeds
LOOKS = {ENSEMBLE: "ensemble", LOGIT: "logit", MARGIN: "ensemble"}


def doubling_panels(records: Iterable[Record]) -> list[Panel]:
    """Two panels an ensemble: (a) each part under margin PGD, (b) each attack on the whole.

    Bars: the standard deviation over seeds, of one model the 95 % interval. Ensembles of other images, or that differ
    in more than the seed, have panels of their own.
    """
    panels = []
    ensembles = [run for run in run_parts(records) if not run.is_single]
    for runs in grouped(ensembles, lambda run: (run.group, run.split, run.n, run.carried or 0.0)).values():
        for row in rows_of(runs):
            parts = _together([_margin(run) for run in row.runs], row.runs[0].n)
            attacks = _together([_whole(run) for run in row.runs], row.runs[0].n)
            pair = _panels(row, parts, attacks)
            panels += pair if len(pair) == 2 else []
    return panels


def _margin(run: RunParts) -> dict[str, AttackResult]:
    """Margin PGD on each part."""
    return {
        label: attack
        for label, record in run.parts.items()
        for attack in own_attacks(record)
        if name_without_steps(attack) == MARGIN
    }


def _whole(run: RunParts) -> dict[str, AttackResult]:
    """Each attack on the whole ensemble."""
    whole = run.parts.get(ENSEMBLE)
    return {} if whole is None else {name_without_steps(attack): attack for attack in own_attacks(whole)}


def _together(seeds: Sequence[Mapping[str, AttackResult]], n: int) -> dict[str, list[Points]]:
    """The doublings of every seed, by label."""
    found = {label: [doublings(attacks[label], n) for attacks in seeds if label in attacks] for label in seeds[0]}
    return {
        label: [points for points in each if points is not None]
        for label, each in found.items()
        if len(each) == len(seeds) and None not in each
    }


def _line(label: str, seeds: Sequence[Points], n: int, last: int) -> Line:
    """The mean of the seeds at every doubling up to `last`; it stays where it has ended, as nothing fell any more."""
    steps = sorted({step for points in seeds for step, _ in points} | {last})
    values = np.array([[[y for x, y in points if x <= step][-1] for step in steps] for points in seeds])
    mean = values.mean(axis=0)
    if len(seeds) > 1:
        sd = values.std(axis=0, ddof=1)
        band = mean - sd, mean + sd
    else:
        low, high = zip(*(wilson_around(float(y), n) for y in mean), strict=True)
        band = np.array(low), np.array(high)
    return Line(label=label, look=LOOKS.get(label, label), x=np.array(steps, dtype=np.float64), y=mean, band=band)


def _panels(row: Row[RunParts], *parts: Mapping[str, Sequence[Points]]) -> list[Panel]:
    """(a) and (b), over the same steps; what has no lines is left out."""
    run, every = row.runs[0], [points for some in parts for seeds in some.values() for points in seeds]
    last = max((step for points in every for step, _ in points), default=0)
    name = f"{run.run}{run.suffix}" if len(row.runs) == 1 else f"{row.label}, seeds {all_seeds(row.runs)}"
    panels = []
    for (part, seen), some in zip(PARTS.items(), parts, strict=True):
        lines = tuple(_line(label, seeds, run.n, last) for label, seeds in some.items())
        if lines:
            panels.append(
                Panel(
                    title=f"{part[:3]} {seen(lines)}",
                    setting=f"{name}, {run.group.threat}, {run.split} images, n = {run.n:,}",
                    x_label="attack steps, doubled on what is left standing",
                    y_label="accuracy (%)",
                    lines=lines,
                    scale="log",
                    band=BANDS[len(row.runs) > 1],
                    ticks=tuple(sorted({step for line in lines for step in line.x.tolist()})),
                    part=part,
                )
            )
    return panels


def _of_parts(lines: Sequence[Line]) -> str:
    ends = {line.label: 100 * float(line.y[-1]) for line in lines}
    alone = [end for label, end in ends.items() if label not in (ENSEMBLE, LOGIT)]
    if ENSEMBLE not in ends or not alone:
        return "; ".join(f"{label} {end:.1f} %" for label, end in ends.items())
    members = f"{min(alone):.1f} to {max(alone):.1f} %" if len(alone) > 1 else f"{alone[0]:.1f} %"
    return f"Members alone {members}, the ensemble {ends[ENSEMBLE]:.1f} %"


def _of_attacks(lines: Sequence[Line]) -> str:
    least = min(100 * float(line.y[-1]) for line in lines)
    names = [line.label for line in lines if f"{100 * float(line.y[-1]):.1f}" == f"{least:.1f}"]
    return f"{' and '.join(names)} leave{'s' if len(names) == 1 else ''} the least standing, {least:.1f} %"


PARTS: Mapping[str, Callable[[Sequence[Line]], str]] = {
    "(a) each part, margin loss": _of_parts,
    "(b) attacks on the ensemble": _of_attacks,
}
