"""Figure 3 of Grefenstette et al. (2018): accuracy over the number of attack steps, doubled until it stops falling."""

from collections.abc import Iterable, Mapping

import numpy as np

from ensemble_bench.records import AttackResult, Record
from ensemble_bench.reports.figures.lines import Line, Panel
from ensemble_bench.reports.run_parts import (
    ENSEMBLE,
    LOGIT,
    RunParts,
    doublings,
    name_without_steps,
    own_attacks,
    run_parts,
)

MARGIN = "margin"
LOOKS = {ENSEMBLE: "ensemble", LOGIT: "logit", MARGIN: "ensemble"}


def doubling_panels(records: Iterable[Record]) -> list[Panel]:
    """Two panels an ensemble: (a) each of its parts under margin PGD, (b) each attack on the whole ensemble."""
    panels = []
    for run in run_parts(records):
        if run.is_single:
            continue
        parts = {label: attack for label, record in run.parts.items() for attack in _margin(record)}
        whole = [(label, attack) for label, r in run.parts.items() if r.view is None for attack in own_attacks(r)]
        several = len({label for label, _ in whole}) > 1
        attacks = {name_without_steps(a) + (label.removeprefix(ENSEMBLE) if several else ""): a for label, a in whole}
        pair = [_panel(run, "(a) each part, margin loss", parts), _panel(run, "(b) attacks on the ensemble", attacks)]
        if all(panel.lines for panel in pair):
            panels += pair
    return panels


def _margin(record: Record) -> list[AttackResult]:
    return [attack for attack in own_attacks(record) if name_without_steps(attack) == MARGIN]


def _panel(run: RunParts, title: str, attacks: Mapping[str, AttackResult]) -> Panel:
    lines, ticks = [], set[int]()
    for label, attack in attacks.items():
        points = doublings(attack, run.n)
        if points is None:
            continue
        steps, accuracies = zip(*points, strict=True)
        ticks |= set(steps)
        x, y = np.array(steps, dtype=np.float64), np.array(accuracies, dtype=np.float64)
        lines.append(Line(label=label, look=LOOKS.get(label, label), x=x, y=y))
    return Panel(
        title=f"{title}\n{run.run}, {run.group.threat}",
        x_label="attack steps, doubled on what is left standing",
        y_label=f"accuracy, {run.split}, n = {run.n} (%)",
        lines=tuple(lines),
        scale="log",
        from_zero=False,
        ticks=tuple(sorted(ticks)),
    )
