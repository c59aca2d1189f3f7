"""Figures 2a, 2b and 2c of Grefenstette et al. (2018): accuracy over training steps, and over attack steps."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ensemble_bench.records import AttackResult, Record
from ensemble_bench.records.text import carried_eps
from ensemble_bench.registry import split_steps
from ensemble_bench.reports.alike import Row, rows_of
from ensemble_bench.reports.figures.lines import Line, Panel, Series, leaders
from ensemble_bench.reports.groups import Scored, group_of, grouped, scored_models
from ensemble_bench.reports.training_curves import Curve, as_paper, average

LOG_FROM = 100  # attack steps from which their axis is logarithmic


def training_panels(curves: Iterable[Curve], metric: str, *, paper: bool = False) -> list[Panel]:
    """Figure 2a (`metric` ifgsm5) or 2b (pgd20): a panel a group, a line a recipe, the mean of its seeds ± sd."""
    panels = []
    for (group, n), runs in grouped(curves, lambda curve: (curve.group, curve.n or 0)).items():
        lines = []
        for row in rows_of(runs):
            mean = (as_paper if paper else average)(row.runs)
            y = mean.accuracy[metric]
            band = _band(y, mean.sd[metric]) if mean.sd else None
            lines.append(Line(label=row.label, look=row.look, x=mean.step, y=y, band=band))
        panels.append(
            Panel(
                title=leaders(lines),
                setting=f"{group}, {metric}, validation images{f', n = {n:,}' if n else ''}",
                x_label="training step",
                y_label=f"accuracy under {metric} (%)",
                lines=tuple(lines),
            )
        )
    return panels


def attack_panels(records: Iterable[Record]) -> list[Panel]:
    """Figure 2c: accuracy after 0, 1, … steps of the longest pgd, a panel a group, headline checkpoints.

    Within a group all lines come from the same attack on equally many images of one split, and start at the clean
    accuracy: records that carry fallen images over from a smaller eps are left out.
    """
    whole = [scored for scored in scored_models(records) if carried_eps(scored.record) is None]
    panels = []
    for group, members in grouped(whole, lambda scored: group_of(scored.record)).items():
        by_attack = grouped(
            ((scored, attack) for scored in members for attack in scored.record.attacks if _is_pgd(attack)),
            lambda pair: (pair[1].name, pair[0].record.split, pair[0].record.n),
        )
        if not by_attack:
            continue
        longest = max(by_attack, key=lambda s: (split_steps(s[0])[1] or 0, len(by_attack[s]), s[2], s[1]))
        rows = rows_of(replace(scored, attacks=longest[:1]) for scored, _ in by_attack[longest])
        lines = tuple(_attack_line(row, [_curve(s.record, longest[0]) for s in row.runs]) for row in rows)
        panels.append(
            Panel(
                title=leaders(lines),
                setting=f"{group}, {longest[0]}, {longest[1]} images, n = {longest[2]:,}",
                x_label=f"steps of {longest[0]}",
                y_label="accuracy (%)",
                lines=lines,
                omitted=tuple(sorted({s.run for s in members} - {s.run for s, _ in by_attack[longest]})),
                scale="symlog" if max(line.x[-1] for line in lines) >= LOG_FROM else "linear",
            )
        )
    return panels


def _band(mean: Series, sd: Series) -> tuple[Series, Series]:
    return mean - sd, mean + sd


def _curve(record: Record, name: str) -> Sequence[float]:
    attack = record.attack(name)
    return (attack.curve if attack else None) or ()


def _attack_line(row: Row[Scored], curves: Sequence[Sequence[float]]) -> Line:
    # A curve may end early, where nothing was left to attack; it stays at its last value.
    length = max(map(len, curves))
    values = np.stack([np.pad(np.asarray(c, dtype=np.float64), (0, length - len(c)), mode="edge") for c in curves])
    mean = values.mean(axis=0)
    band = _band(mean, values.std(axis=0, ddof=1)) if len(curves) > 1 else None
    return Line(label=row.label, look=row.look, x=np.arange(length, dtype=np.float64), y=mean, band=band)


def _is_pgd(attack: AttackResult) -> bool:
    return bool(attack.curve) and attack.name.startswith("pgd") and attack.name[3:].isdigit()
