"""Robustness over the cost of a prediction: what an ensemble gives beside a wider network of the same cost."""

from collections.abc import Iterable

import numpy as np

from ensemble_bench.records import Record
from ensemble_bench.records.statistics import mean_sd
from ensemble_bench.records.table import percent
from ensemble_bench.registry import RECIPES
from ensemble_bench.reports.alike import Row
from ensemble_bench.reports.figures.lines import Line, Panel, leaders
from ensemble_bench.reports.groups import Scored
from ensemble_bench.reports.tables.cost import compared

UNITS = {0: "", 3: "10³ ", 6: "10⁶ ", 9: "10⁹ ", 12: "10¹² "}
EQUAL = 1.1
"""Costs within this ratio share a tick, and their points stand side by side, this far apart:"""
ASIDE = 1.04


def cost_panels(records: Iterable[Record]) -> list[Panel]:
    """A panel a suite that decides on claims: a point a recipe, the mean of its seeds ± sd, over FLOPs.

    Recipes of standard training, which nearly every image breaks, are named and not drawn; nor is one recipe alone.
    """
    panels = []
    for part in compared(records):
        known = [row for row in part.rows if row.runs[0].record.flops]
        drawn = [row for row in known if not _is_standard(row)]
        standard = [row for row in known if _is_standard(row)]
        if len(drawn) < 2:  # a point alone compares nothing
            continue
        setting = f"{part.group}, suite {part.suite}, {part.split} images, n = {part.n:,}"
        if standard:
            highest = max(scored.record.robust.accuracy for row in standard for scored in row.runs)
            setting += f"; not drawn, at most {percent(highest)} %: {', '.join(row.label for row in standard)}"
        ticks = _ticks(drawn)
        power = min(3 * ((len(str(ticks[-1])) - 1) // 3), max(UNITS))
        points = tuple(_point(row, x / 10**power) for row, x in zip(drawn, _side_by_side(drawn, ticks), strict=True))
        panels.append(
            Panel(
                title=leaders(points, verbs=("is", "are")),
                setting=setting,
                x_label=f"{UNITS[power]}FLOPs of a prediction",
                y_label="worst case (%)",
                lines=points,
                scale="log",
                apart=True,
                ticks=tuple(float(f"{tick / 10**power:.3g}") for tick in ticks),
            )
        )
    return panels


def _is_standard(row: Row[Scored]) -> bool:
    return row.recipe in RECIPES and not RECIPES[row.recipe].adversarial


def _flops(row: Row[Scored]) -> int:
    return row.runs[0].record.flops or 0


def _ticks(rows: Iterable[Row[Scored]]) -> list[int]:
    """The costs; of those that are about equal the smallest."""
    kept: list[int] = []
    for cost in sorted(map(_flops, rows)):
        if not kept or cost > EQUAL * kept[-1]:
            kept.append(cost)
    return kept


def _side_by_side(rows: list[Row[Scored]], ticks: list[int]) -> list[float]:
    """Where the points stand: at their cost, those of about the same cost beside each other."""
    at = [max(tick for tick in ticks if tick <= _flops(row)) for row in rows]
    return [tick * ASIDE ** (at[:place].count(tick) - (at.count(tick) - 1) / 2) for place, tick in enumerate(at)]


def _point(row: Row[Scored], x: float) -> Line:
    spread = mean_sd([scored.record.robust.accuracy for scored in row.runs])
    mean = np.array([spread.mean])
    band = None if spread.sd is None else (mean - spread.sd, mean + spread.sd)
    return Line(label=row.label, look=row.look, x=np.array([x]), y=mean, band=band)
