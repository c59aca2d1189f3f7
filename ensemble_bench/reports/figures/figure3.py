"""Figure 3 of Grefenstette et al. (2018): accuracy over the number of attack steps, doubled until it stops falling."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ensemble_bench.records import AttackResult, Record
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
LOOKS = {ENSEMBLE: "ensemble", LOGIT: "logit", MARGIN: "ensemble"}


def doubling_panels(records: Iterable[Record]) -> list[Panel]:
    """Two panels an ensemble: (a) each part under margin PGD, (b) each attack on the whole; means of seeds ± sd.

    Ensembles of other images, or that differ in more than the seed, have panels of their own.
    """
    panels = []
    ensembles = [run for run in run_parts(records) if not run.is_single]
    for runs in grouped(ensembles, lambda run: (run.group, run.split, run.n, run.carried or 0.0)).values():
        for row in rows_of(runs):
            parts = _together([_margin(run) for run in row.runs], row.runs[0].n)
            attacks = _together([_whole(run) for run in row.runs], row.runs[0].n)
            pair = [
                _panel(row, "(a) each part, margin loss", parts),
                _panel(row, "(b) attacks on the ensemble", attacks),
            ]
            if all(panel.lines for panel in pair):
                panels += pair
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


def _line(label: str, seeds: Sequence[Points]) -> Line:
    """The mean of the seeds at every doubling; where one has ended, nothing fell any more, and it stays where it is."""
    steps = sorted({step for points in seeds for step, _ in points})
    values = np.array([[[y for x, y in points if x <= step][-1] for step in steps] for points in seeds])
    mean = values.mean(axis=0)
    sd = values.std(axis=0, ddof=1) if len(seeds) > 1 else None
    band = None if sd is None else (mean - sd, mean + sd)
    return Line(label=label, look=LOOKS.get(label, label), x=np.array(steps, dtype=np.float64), y=mean, band=band)


def _panel(row: Row[RunParts], title: str, parts: Mapping[str, Sequence[Points]]) -> Panel:
    run, lines = row.runs[0], tuple(_line(label, seeds) for label, seeds in parts.items())
    name = f"{run.run}{run.suffix}" if len(row.runs) == 1 else f"{row.label}, seeds {all_seeds(row.runs)}"
    return Panel(
        title=f"{title}\n{name}, {run.group.threat}",
        x_label="attack steps, doubled on what is left standing",
        y_label=f"accuracy, {run.split}, n = {run.n} (%)",
        lines=lines,
        scale="log",
        from_zero=False,
        ticks=tuple(sorted({step for line in lines for step in line.x.tolist()})),
    )
