"""Robust accuracy over the FLOPs of one prediction: a point a line of the board's table, all of one suite."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ensemble_bench.leaderboard.site.boards import Board, Line
from ensemble_bench.leaderboard.site.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    LINE,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Chart,
    Label,
    Mark,
    Tick,
    interval,
    percent_axis,
    short,
)
from ensemble_bench.leaderboard.site.looks import look_of
from ensemble_bench.records.text import quantity
from ensemble_bench.registry import strength_of

RADIUS = 5.0  # of a mark
BESIDE = 9.0  # between the middle of a mark and its label
FARTHEST = 75  # pixels that a label may be moved up or down
STEP = 3
Box = tuple[float, float, float, float]  # left, top, right, bottom


def scatter(board: Board) -> Chart | None:
    """The chart of a board, None where no model's FLOPs are known."""
    known = [line for line in board.lines if line.first.flops]
    if not known:
        return None
    suite = _suite(known)
    lines = [line for line in known if _evaluated(line) == suite]
    flops = [line.first.flops or 1 for line in lines]
    x = Axis(math.log10(min(flops) / 1.6), math.log10(max(flops) * 1.6), LEFT, WIDTH - RIGHT)
    y = percent_axis(end for line in lines for end in _ends(line))
    marks = _side_by_side([_mark(line, x, y) for line in lines])
    labels = _labels(marks, _names(lines))
    named = {label.line for label in labels}
    what, n, split = suite
    return Chart(
        title=f"Robust accuracy against compute, {board.title}: suite {what}{f', n = {n:,}' if n else ''}"
        + ("" if split == "test" else f", {split} images"),
        x_label="FLOPs of one prediction",
        y_label="robust accuracy (%)",
        x_ticks=tuple(Tick(at=x(math.log10(v)), text=quantity(v, plain=True)) for v in _decades(x.low, x.high)),
        y_ticks=y.ticks(),
        marks=tuple(marks),
        labels=labels,
        legend=tuple(mark for mark in marks if mark.line not in named),
        note=_note(len(known) - len(lines), len({mark.x for mark in marks}) > len(set(flops))),
    )


def _suite(lines: Sequence[Line]) -> tuple[str, int | None, str]:
    """The evaluation that is drawn: that of most ranked models, then of most lines, then the strongest."""
    ranked = Counter(_evaluated(line) for line in lines for _ in line.ranks)
    every = Counter(map(_evaluated, lines))
    return min(every, key=lambda e: (-ranked[e], -every[e], -strength_of(e[0]), -(e[1] or 0), e[2], e[0]))


def _evaluated(line: Line) -> tuple[str, int | None, str]:
    return line.first.suite, line.first.n, line.first.split


def _ends(line: Line) -> tuple[float, float, float]:
    """The accuracy, and the ends of its bar."""
    value = line.robust
    if value.sd is not None:
        return value.accuracy, max(0.0, value.accuracy - value.sd), min(1.0, value.accuracy + value.sd)
    low, high = (value.accuracy if end is None else end for end in (value.ci_low, value.ci_high))
    return value.accuracy, low, high


def _mark(line: Line, x: Axis, y: Axis) -> Mark:
    middle, low, high = (y(100 * end) for end in _ends(line))
    first, score = line.first, line.robust
    told = f"{score}, {line.of}" if line.of else interval(score.accuracy, score.ci_low, score.ci_high) + " %"
    ranks = f"rank {', '.join(map(str, line.ranks))}" if line.ranks else "unranked"
    return Mark(
        x=x(math.log10(first.flops or 1)),
        y=middle,
        low=low,
        high=high,
        title=f"{line.name}: {told}, {quantity(first.flops or 1)} FLOPs, {ranks}",
        shape="square" if first.members > 1 else "circle",
        colour=look_of(first.recipe),
        line=line.id,
        name=line.name,
    )


def _side_by_side(marks: Sequence[Mark]) -> list[Mark]:
    """Marks at one place of the x axis, apart by as much as keeps their bars apart."""
    moved = []
    for mark in marks:
        near = sorted((other for other in marks if abs(other.x - mark.x) < RADIUS), key=lambda o: (o.x, o.y, o.line))
        moved.append(replace(mark, x=round(mark.x + (near.index(mark) - (len(near) - 1) / 2) * 1.6 * RADIUS, 1)))
    return moved


def _names(lines: Sequence[Line]) -> list[str]:
    """What each is called: its recipe, where that is no mere claim; else as much of its name as tells it apart."""
    recipes = ["" if line.first.claimed else line.first.recipe for line in lines]
    if all(recipes) and len(set(recipes)) == len(recipes):
        return recipes
    words = [line.name.split("-") for line in lines]
    return ["-".join(own[: _telling(own, words)]) for own in words]


def _telling(own: Sequence[str], all_names: Sequence[Sequence[str]]) -> int:
    """How many of the first words of a name no other name begins with."""
    counts = range(1, len(own) + 1)
    return next((k for k in counts if sum(other[:k] == own[:k] for other in all_names) == 1), len(own))


def _labels(marks: Sequence[Mark], names: Sequence[str]) -> tuple[Label, ...]:
    """A label beside each mark, at the nearest height where it lies on nothing; none where there is no such place."""
    taken = [box for mark in marks for box in _boxes(mark)]
    placed: list[Label] = []
    for mark, name in sorted(zip(marks, names, strict=True), key=lambda pair: (pair[0].y, pair[0].x)):
        own = {*_boxes(mark)}
        for label in _candidates(mark, short(name)):
            box = _box(label)
            if not any(_overlap(box, other) for other in taken if other not in own):
                taken.append(box)
                placed.append(label)
                break
    return tuple(placed)


def _candidates(mark: Mark, text: str) -> Iterator[Label]:
    """Labels right and left of a mark, the nearest first, inside the chart."""
    width = LETTER * len(text)
    for up, (end, edge) in itertools.product(range(0, FARTHEST, STEP), ((False, 1), (True, -1))):
        for y in dict.fromkeys((mark.y - up, mark.y + up)):
            far = up > 2 * STEP
            start = mark.x + edge * (BESIDE + (BESIDE if far else 0))
            inside = start - width >= LEFT if end else start + width <= WIDTH
            if inside and TOP <= y <= HEIGHT - BOTTOM - LINE / 2:
                leader = (mark.x + edge * RADIUS, mark.y, start - 2 * edge, y) if far else None
                yield Label(x=round(start, 1), y=round(y, 1), text=text, end=end, line=mark.line, leader=leader)


def _boxes(mark: Mark) -> tuple[Box, Box]:
    """What a mark and its bar cover."""
    bar = mark.x - 2, min(mark.low, mark.high), mark.x + 2, max(mark.low, mark.high)
    return (mark.x - RADIUS, mark.y - RADIUS, mark.x + RADIUS, mark.y + RADIUS), bar


def _box(label: Label) -> Box:
    width = LETTER * len(label.text)
    left = label.x - width if label.end else label.x
    return left, label.y - LINE / 2, left + width, label.y + LINE / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _note(left_out: int, beside: bool) -> str:
    others = f"{left_out} line{'s' if left_out > 1 else ''} of other evaluations left out" if left_out else ""
    moved = "points of equal cost stand side by side" if beside else ""
    return "; ".join(part for part in (others, moved) if part)


def _decades(low: float, high: float) -> list[float]:
    """Two or more round numbers on a logarithmic axis between the powers `low` and `high` of ten."""
    inside: list[float] = []
    for bases in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8)):
        values = [base * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for base in bases]
        inside = [value for value in values if low <= math.log10(value) <= high]
        if len(inside) > 1:
            break
    return inside
