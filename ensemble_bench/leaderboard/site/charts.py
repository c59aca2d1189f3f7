"""Charts as geometry in pixels, which a template draws as inline SVG; accuracies become percent here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from matplotlib.ticker import MaxNLocator

from ensemble_bench.leaderboard.site.entries import Entry
from ensemble_bench.records import AttackResult, CleanScore, Record, RobustScore

WIDTH, HEIGHT = 480.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 22.0, 12.0, 46.0  # margins
LINE = 15.0  # between the baselines of two labels
LONGEST = 24  # characters of a label
LETTER = 7.0  # width of one, about
CROWDED = 14  # marks above which none is labelled
COLOURS = 8
LOG_FROM = 100  # attack steps from which their axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A number on an axis, at a pixel."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point with its 95 % interval (pixels), and what it is; `entry` is the place of its line in the table."""

    x: float
    y: float
    low: float
    high: float
    title: str
    shape: str = "circle"
    entry: int | None = None


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at a pixel, ending there where `end` holds, in the colour of a line."""

    x: float
    y: float
    text: str
    end: bool = False
    colour: int = 0
    entry: int | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points in pixels, as SVG writes them."""

    points: str
    colour: int
    title: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is drawn on one pair of axes; `title` says in a sentence what it shows."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    labels: tuple[Label, ...] = ()
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def compute_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Robust accuracy over the FLOPs of one prediction, a chart a board, of the entries that have both."""
    boards: dict[str, list[tuple[int, Entry]]] = {}
    for place, entry in enumerate(entries):
        if entry.flops:
            boards.setdefault(entry.board, []).append((place, entry))
    return [_compute_chart(board, placed) for board, placed in boards.items()]


def steps_chart(record: Record) -> Chart | None:
    """Accuracy after 0, 1, … attack steps, a line an attack, None where no attack has them."""
    series = {attack.name: steps_of(attack, cascade=bool(record.cascade)) for attack in record.attacks}
    known = {name: points for name, points in series.items() if len(points) > 1}
    if not known:
        return None
    last = max(x for points in known.values() for x, _ in points)
    logarithmic = last >= LOG_FROM

    def scale(x: float) -> float:
        return math.log1p(x) if logarithmic else x

    ticks = (0, *(base * 10**power for power in range(5) for base in (1, 2, 5))) if logarithmic else _nice(0, last)
    x = _Axis(0.0, scale(last), LEFT, WIDTH - RIGHT - LETTER * max(len(_short(name)) for name in known))
    y = _percent_axis([value for points in known.values() for _, value in points], from_zero=True)
    placed = {name: [(x(scale(a)), y(100 * b)) for a, b in points] for name, points in known.items()}
    return Chart(
        title=f"Accuracy over attack steps, suite {record.suite}, n = {record.n}",
        x_label="attack steps",
        y_label="accuracy (%)",
        x_ticks=tuple(Tick(at=x(scale(step)), text=f"{step:g}") for step in ticks if step <= last),
        y_ticks=y.ticks(),
        right=x.end,
        lines=tuple(
            Line(points=_path(points), colour=i % COLOURS, title=name)
            for i, (name, points) in enumerate(placed.items())
        ),
        labels=_apart(
            Label(x=x.end + 8, y=points[-1][1], text=_short(name), colour=i % COLOURS)
            for i, (name, points) in enumerate(placed.items())
        ),
    )


def eps_chart(sweep: Sequence[Record]) -> Chart | None:
    """Worst-case accuracy over eps with 95 % intervals; 0 is clean. None where there are not two sizes."""
    if len(sweep) < 2:
        return None
    first = sweep[0]
    scores: list[tuple[float, str, CleanScore | RobustScore]] = [(0.0, "0", first.clean)]
    scores += ((r.threat.eps, r.threat.eps_text, r.robust) for r in sweep)
    x = _Axis(0.0, scores[-1][0], LEFT, WIDTH - RIGHT)
    y = _percent_axis([end for _, _, score in scores for end in (score.ci_low, score.ci_high)], from_zero=True)
    marks = tuple(
        Mark(
            x=x(eps),
            y=y(100 * score.accuracy),
            low=y(100 * score.ci_low),
            high=y(100 * score.ci_high),
            title=f"eps {text}: {interval(score.accuracy, score.ci_low, score.ci_high)}",
        )
        for eps, text, score in scores
    )
    return Chart(
        title=f"Worst-case accuracy over eps, {first.threat.norm}, suite {first.suite}, n = {first.n}",
        x_label=f"eps ({first.threat.norm})",
        y_label="worst-case accuracy (%)",
        x_ticks=tuple(Tick(at=x(eps), text=text) for eps, text, _ in scores),
        y_ticks=y.ticks(),
        marks=marks,
        lines=(Line(points=_path([(mark.x, mark.y) for mark in marks]), colour=0, title="worst case"),),
    )


def steps_of(attack: AttackResult, *, cascade: bool = False) -> list[tuple[float, float]]:
    """Accuracies after so many steps: the attack's curve, or what its stages NAME/10, NAME/20, … left standing.

    Stages of a cascade say little: they begin with what the attacks before left.
    """
    if attack.curve is not None:
        return [(float(step), accuracy) for step, accuracy in enumerate(attack.curve)]
    stages = () if cascade else attack.stages or ()
    steps = [stage.name.rpartition("/")[2] for stage in stages]
    if not all(step.isascii() and step.isdigit() for step in steps):
        return []
    return [(float(x), (s.attacked - s.broken) / attack.n) for x, s in zip(steps, stages, strict=True)]


def interval(accuracy: float, low: float | None, high: float | None) -> str:
    """An accuracy as people read it, in percent with one decimal: "24.2 [20.7, 28.1]"."""
    text = f"{100 * accuracy:.1f}"
    return text if low is None or high is None else f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def quantity(value: float, *, plain: bool = False) -> str:
    """A count with three digits and its prefix: "156 k", "48.2 M", "1.20 G"; `plain` drops zeros: "1.2 G"."""
    for prefix in ("", " k", " M", " G", " T", " P"):
        if value < 999.5 or prefix == " P":
            break
        value /= 1000
    digits = 0 if value >= 99.95 or not prefix else 1 if value >= 9.995 else 2
    return f"{value:.3g}{prefix}" if plain else f"{value:.{digits}f}{prefix}"


@dataclass(frozen=True)
class _Axis:
    """Maps numbers from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        return tuple(Tick(at=self(value), text=f"{value:g}") for value in _nice(self.low, self.high))


def _percent_axis(accuracies: Iterable[float], *, from_zero: bool = False) -> _Axis:
    percent = [100 * accuracy for accuracy in accuracies]
    low = 0.0 if from_zero else 5 * math.floor(min(percent) / 5)
    return _Axis(low, min(100.0, 5 * math.floor(max(percent) / 5) + 5), HEIGHT - BOTTOM, TOP)


def _compute_chart(board: str, placed: Sequence[tuple[int, Entry]]) -> Chart:
    flops = [entry.flops or 1 for _, entry in placed]
    ends = [e for _, entry in placed for e in (entry.robust.accuracy, entry.robust.ci_low, entry.robust.ci_high)]
    x = _Axis(math.log10(min(flops) / 1.6), math.log10(max(flops) * 1.6), LEFT, WIDTH - RIGHT)
    y = _percent_axis(end for end in ends if end is not None)
    marks = [_mark(place, entry, x, y) for place, entry in placed]
    names = _names([entry for _, entry in placed])
    middle = (LEFT + WIDTH - RIGHT) / 2
    return Chart(
        title=f"Robust accuracy against compute, {board}",
        x_label="FLOPs of one prediction",
        y_label="robust accuracy (%)",
        x_ticks=tuple(
            Tick(at=x(math.log10(value)), text=quantity(value, plain=True)) for value in _decades(x.low, x.high)
        ),
        y_ticks=y.ticks(),
        marks=tuple(marks),
        labels=_apart(
            Label(
                x=mark.x + (9 if mark.x <= middle else -9),
                y=mark.y,
                text=_short(name),
                end=mark.x > middle,
                entry=mark.entry,
            )
            for mark, name in zip(marks, names, strict=True)
            if len(marks) <= CROWDED
        ),
    )


def _mark(place: int, entry: Entry, x: _Axis, y: _Axis) -> Mark:
    score = entry.robust
    low, high = (score.accuracy if end is None else end for end in (score.ci_low, score.ci_high))
    accuracy = interval(score.accuracy, score.ci_low, score.ci_high)
    rank = "unranked" if entry.rank is None else f"rank {entry.rank}"
    return Mark(
        x=x(math.log10(entry.flops or 1)),
        y=y(100 * score.accuracy),
        low=y(100 * low),
        high=y(100 * high),
        title=f"{entry.name}: {accuracy} %, {quantity(entry.flops or 1)} FLOPs, suite {entry.suite}, {rank}",
        shape="square" if entry.members > 1 else "circle",
        entry=place,
    )


def _names(entries: Sequence[Entry]) -> list[str]:
    """What each is called in the chart: its recipe, where that is no mere claim and no other has the same."""
    recipes = ["" if entry.claimed else entry.recipe for entry in entries]
    return [
        recipe if recipe and recipes.count(recipe) == 1 else entry.name
        for recipe, entry in zip(recipes, entries, strict=True)
    ]


def _apart(labels: Iterable[Label]) -> tuple[Label, ...]:
    """Move each label, from the top, to the nearest height at which it overlaps none of those placed before."""
    placed: list[Label] = []
    for label in sorted(labels, key=lambda label: (label.y, label.x)):
        beside = [other for other in placed if _spans(other, label)]
        heights = [label.y, *(other.y + side * LINE for other in beside for side in (-1, 1))]
        free = [
            y for y in heights if TOP <= y <= HEIGHT - BOTTOM and all(abs(y - other.y) > LINE - 0.1 for other in beside)
        ]
        best = min(free, key=lambda y: abs(y - label.y), default=label.y)
        placed.append(replace(label, y=round(best, 1)))
    return tuple(placed)


def _spans(one: Label, other: Label) -> bool:
    """Whether two labels share a stretch of the x axis."""
    (a, b), (c, d) = (
        (label.x - width, label.x) if label.end else (label.x, label.x + width)
        for label in (one, other)
        for width in (LETTER * len(label.text),)
    )
    return a < d and c < b


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _nice(low: float, high: float, count: int = 6) -> list[float]:
    """At most about `count` round numbers from `low` to `high`."""
    values = MaxNLocator(nbins=count, steps=(1, 2, 5, 10)).tick_values(low, high if high > low else low + 1)
    return [round(float(value), 10) for value in values if low - 1e-9 <= value <= high + 1e-9]


def _decades(low: float, high: float) -> list[float]:
    """Two or more round numbers on a logarithmic axis between the powers `low` and `high` of ten."""
    inside: list[float] = []
    for bases in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8)):
        values = [base * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for base in bases]
        inside = [value for value in values if low <= math.log10(value) <= high]
        if len(inside) > 1:
            break
    return inside
