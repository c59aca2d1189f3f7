"""Charts as geometry in pixels, which a template draws as inline SVG; accuracies become percent here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from matplotlib.ticker import MaxNLocator

from ensemble_bench.records import AttackResult, CleanScore, Record, RobustScore

WIDTH, HEIGHT = 480.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 22.0, 12.0, 46.0  # margins
LINE = 15.0  # between the baselines of two labels
LONGEST = 24  # characters of a label
LETTER = 7.0  # width of one, about
COLOURS = 8
GAP = 8.0  # between two ticks' texts
LOG_FROM = 100  # attack steps from which their axis is logarithmic

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A number on an axis, at a pixel."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point with its interval (pixels), and what it is; `line` and `name` are those of its line in the table."""

    x: float
    y: float
    low: float
    high: float
    title: str
    shape: str = "circle"
    colour: str = "c0"
    line: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at a pixel, ending there where `end` holds, of the line of a table; `leader` leads to its mark."""

    x: float
    y: float
    text: str
    end: bool = False
    colour: str = ""
    line: str = ""
    leader: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points in pixels, as SVG writes them."""

    points: str
    colour: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is drawn on one pair of axes; `title` says in a sentence what it shows, `note` what it leaves out.

    `legend` names the marks that have no room for a label.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    labels: tuple[Label, ...] = ()
    legend: tuple[Mark, ...] = ()
    note: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


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

    whole = [step for step in _nice(0, last) if step.is_integer()]
    ticks = (0, *(base * 10**power for power in range(5) for base in (1, 2, 5))) if logarithmic else whole
    x = Axis(0.0, scale(last), LEFT, WIDTH - RIGHT - LETTER * max(len(short(name)) for name in known))
    y = percent_axis(value for points in known.values() for _, value in points)
    placed = {name: [(x(scale(a)), y(100 * b)) for a, b in points] for name, points in known.items()}
    return Chart(
        title=f"Accuracy over attack steps, suite {record.suite}, n = {record.n:,}",
        x_label="attack steps",
        y_label="accuracy (%)",
        x_ticks=tuple(Tick(at=x(scale(step)), text=f"{step:g}") for step in ticks if step <= last),
        y_ticks=y.ticks(),
        right=x.end,
        lines=tuple(
            Line(points=_path(points), colour=f"c{i % COLOURS}", title=name)
            for i, (name, points) in enumerate(placed.items())
        ),
        labels=tuple(
            replace(label, leader=(*end, label.x - 2, label.y) if end[0] < x.end else None)
            for label, end in _apart(
                (Label(x=x.end + 8, y=points[-1][1], text=short(name), colour=f"c{i % COLOURS}"), points[-1])
                for i, (name, points) in enumerate(placed.items())
            )
        ),
    )


def eps_chart(sweep: Sequence[Record]) -> Chart | None:
    """Worst-case accuracy over eps with 95 % intervals; 0 is clean. None where there are not two sizes."""
    if len(sweep) < 2:
        return None
    first = sweep[0]
    scores: list[tuple[float, str, CleanScore | RobustScore]] = [(0.0, "0", first.clean)]
    scores += ((r.threat.eps, r.threat.eps_text, r.robust) for r in sweep)
    x = Axis(0.0, scores[-1][0], LEFT, WIDTH - RIGHT)
    y = percent_axis(end for _, _, score in scores for end in (score.ci_low, score.ci_high))
    unit = 255 if first.threat.norm == "linf" else 1  # in linf, eps are steps of 8-bit images
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
        title=f"Worst-case accuracy over eps, {first.threat.norm}, suite {first.suite}, n = {first.n:,}",
        x_label="eps (255ths)" if unit > 1 else "eps",
        y_label="worst-case accuracy (%)",
        x_ticks=_apart_ticks([Tick(at=x(eps), text=f"{unit * eps:.4g}") for eps, _, _ in scores]),
        y_ticks=y.ticks(),
        marks=marks,
        lines=(Line(points=_path([(mark.x, mark.y) for mark in marks]), colour="c0", title="worst case"),),
    )


def steps_of(attack: AttackResult, *, cascade: bool = False) -> list[tuple[float, float]]:
    """Accuracies after so many steps: the attack's curve, or what its stages NAME/10, NAME/20, … left standing.

    Stages of a cascade say little: they begin with what the attacks before left.
    """
    if attack.curve is not None:
        return [(float(step), accuracy) for step, accuracy in enumerate(attack.curve)]
    stages = () if cascade or not attack.n else attack.stages or ()
    steps = [stage.name.rpartition("/")[2] for stage in stages]
    if not all(step.isascii() and step.isdigit() for step in steps):
        return []
    return [(float(x), (s.attacked - s.broken) / attack.n) for x, s in zip(steps, stages, strict=True)]


def interval(accuracy: float, low: float | None, high: float | None) -> str:
    """An accuracy as people read it, in percent with one decimal: "24.2 [20.7, 28.1]"."""
    text = f"{100 * accuracy:.1f}"
    return text if low is None or high is None else f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Axis:
    """Maps numbers from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a number."""
        span = (self.high - self.low) or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Round numbers between the ends."""
        return tuple(Tick(at=self(value), text=f"{value:g}") for value in _nice(self.low, self.high))


def percent_axis(accuracies: Iterable[float]) -> Axis:
    """An axis of percent, from the fives around the data."""
    percent = [100 * accuracy for accuracy in accuracies]
    low = 5 * math.floor(min(percent) / 5)
    return Axis(low, min(100.0, 5 * math.floor(max(percent) / 5) + 5), HEIGHT - BOTTOM, TOP)


def _apart_ticks(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """The first, the last, and from the left all whose texts overlap none of these."""
    kept = [ticks[0], ticks[-1]]
    for tick in ticks[1:-1]:
        if all(abs(tick.at - other.at) >= LETTER * (len(tick.text) + len(other.text)) / 2 + GAP for other in kept):
            kept.append(tick)
    return tuple(sorted(kept, key=lambda tick: tick.at))


def _apart(labels: Iterable[tuple[Label, Point]]) -> list[tuple[Label, Point]]:
    """Move labels that stand below each other apart, from the top, each with the point that it is of."""
    placed: list[tuple[Label, Point]] = []
    for label, point in sorted(labels, key=lambda pair: pair[0].y):
        heights = [label.y, *(other.y + side * LINE for other, _ in placed for side in (-1, 1))]
        free = [
            y
            for y in heights
            if TOP <= y <= HEIGHT - BOTTOM and all(abs(y - other.y) > LINE - 0.1 for other, _ in placed)
        ]
        best = min(free, key=lambda y: abs(y - label.y), default=label.y)
        placed.append((replace(label, y=round(best, 1)), point))
    return placed


def short(name: str) -> str:
    """A name as a label has room for it."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _nice(low: float, high: float, count: int = 6) -> list[float]:
    """At most about `count` round numbers from `low` to `high`."""
    values = MaxNLocator(nbins=count, steps=(1, 2, 5, 10)).tick_values(low, high if high > low else low + 1)
    return [round(float(value), 10) for value in values if low - 1e-9 <= value <= high + 1e-9]
