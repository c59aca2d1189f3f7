"""Panels of lines (accuracies over steps or eps) as PNG and PDF: equal data give equal bytes."""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.files import write_atomic
from ensemble_bench.registry import RECIPES
from ensemble_bench.registry.recipes import DASHED, SOLID

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour and dashes of every line that has its own: the recipes' own, then the parts and the losses of Figure 3.
LOOKS: Mapping[str, tuple[str, Any]] = {
    **{name: recipe.look for name, recipe in RECIPES.items() if recipe.look is not None},
    "ensemble": ("#000000", SOLID),
    "logit": ("#000000", DASHED),
    "random-member": ("#E69F00", SOLID),
    "mean-member": ("#D55E00", SOLID),
    "max-member": ("#009E73", SOLID),
    "clipped-member": ("#CC79A7", SOLID),
}
SPARE = ("#332288", "#882255", "#44AA99", "#999933", "#AA4499", "#661100")  # for models that are no recipe
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
}
WIDTH, HEIGHT = 7.0, 3.7  # inches, of one panel
BESIDE, LEGEND = 5.4, 2.5  # inches of a panel that stands beside another, and of the one legend for all
FEW = 12  # points of a line up to which each has a bar; the others lie on a band
LETTER = 0.085  # inches, about
MARGIN = 0.7  # inches left of a panel
DODGE = 0.008  # of the x axis, between two lines with bars

Series = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Accuracies (fractions) at `x`, and the lower and upper end of a band around them, if there is one.

    `look` names its colour and dashes in LOOKS.
    """

    label: str
    look: str
    x: Series
    y: Series
    band: tuple[Series, Series] | None = None
    marker: str = "o"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The lines of one group: `title` says what is to be seen, `setting` what was measured, and on what.

    `omitted` names its runs that were not measured so. The x axis is "linear" from 0, "symlog" (logarithmic from 1, and
    0 beside it) or "log". `band` says what bands and bars are; `ticks` stand on the x axis where they fit, by default
    round numbers. `part` heads the lines of this panel in a legend that several share. `apart` says that no two points
    share their x, so that none has to be moved for its bar to be seen.
    """

    title: str
    setting: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    omitted: tuple[str, ...] = ()
    scale: str = "linear"
    band: str = "mean ± sd over seeds"
    ticks: tuple[float, ...] = ()
    part: str = ""
    apart: bool = False


def leaders(lines: Sequence[Line], *, verbs: tuple[str, str] = ("ends", "end")) -> str:
    """Say which line ends highest, at which accuracy, and which comes next; `verbs` are for one line, and for two."""
    first, *others = sorted(lines, key=lambda line: -float(line.y[-1]))
    if not others:
        return f"{first.label} {verbs[0]} at {_percent(first.y[-1])} %"
    second = others[0]
    if _percent(first.y[-1]) == _percent(second.y[-1]):
        return f"{first.label} and {second.label} {verbs[1]} highest, at {_percent(first.y[-1])} %"
    return (
        f"{first.label} {verbs[0]} highest, at {_percent(first.y[-1])} %; {second.label} at {_percent(second.y[-1])} %"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def write_figure(panels: Sequence[Panel], path: Path, *, columns: int = 1) -> list[Path]:
    """Draw `panels` row by row and write them to `path` with the suffixes .png and .pdf; return both paths.

    The panels of a row share their y axis, and where there are several columns all share one legend.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", STYLE], after_reset=True):  # the user's own settings would change the bytes
        rows = -(-len(panels) // columns)
        each, beside = (WIDTH, 0.0) if columns == 1 else (BESIDE, LEGEND)
        figure = Figure(figsize=(each * columns + beside, HEIGHT * rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        drawn = list[tuple[Panel, Mapping[str, Any]]]()
        for place, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
            row = panels[place // columns * columns : (place // columns + 1) * columns]
            handles = _draw(ax, panel, _limits(row), each)
            if place % columns:
                ax.set_ylabel("")
            if columns == 1:
                _legend(ax, panel, handles)
            drawn.append((panel, handles))
        for ax in axes[len(panels) :]:
            ax.remove()
        if columns > 1:
            _one_legend(figure, drawn)
        return save_figure(figure, path)


def save_figure(figure: "Figure", path: Path) -> list[Path]:
    """Write a drawn figure to `path` with the suffixes .png and .pdf, the same bytes every time; return both paths."""
    written = []
    # Dates and versions of matplotlib in the files would make equal figures differ.
    for suffix, unwanted in ((".png", ("Software",)), (".pdf", ("CreationDate", "Creator", "Producer"))):
        sink = io.BytesIO()
        figure.savefig(sink, format=suffix[1:], dpi=200, metadata=dict.fromkeys(unwanted))
        written.append(path.with_suffix(suffix))
        write_atomic(written[-1], sink.getvalue())
    return written


def _draw(ax: "Axes", panel: Panel, limits: tuple[float, float], inches: float) -> dict[str, Any]:
    """Draw the lines, and return what stands for each in a legend."""
    from matplotlib.ticker import MaxNLocator

    spare = iter(SPARE * (1 + len(panel.lines) // len(SPARE)))
    handles = {}
    for place, line in enumerate(panel.lines):
        colour, dashes = LOOKS.get(line.look) or (next(spare), "-")
        few = len(line.x) <= FEW
        moved = few and line.band is not None and not panel.apart
        x = _beside(panel, line.x, place - (len(panel.lines) - 1) / 2) if moved else line.x
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "marker": line.marker if few else None}
        # Unclipped: 0 % stays visible.
        (handles[line.label],) = ax.plot(x, 100 * line.y, markersize=3.5, clip_on=False, **look)
        if line.band is not None:
            low, high = (np.clip(100 * end, 0, 100) for end in line.band)
            if few:
                ends = np.abs([100 * line.y - low, high - 100 * line.y])
                ax.errorbar(x, 100 * line.y, ends, fmt="none", ecolor=colour, elinewidth=1.1, capsize=2, clip_on=False)
            else:
                ax.fill_between(line.x, low, high, color=colour, alpha=0.13, linewidth=0)
    title, setting = (
        _filled(text, inches - MARGIN, size) for text, size in ((panel.title, 10.5), (panel.setting, 8.5))
    )
    ax.set_title(title, pad=6 + 11 * len(setting.splitlines()))
    ax.annotate(setting, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=8.5, color="#555555", va="bottom")
    ax.set(xlabel=panel.x_label, ylabel=panel.y_label)
    ax.set_ylim(*limits)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    _scale(ax, panel)
    return handles


def _filled(text: str, inches: float, points: float) -> str:
    """`text` in lines of a width, at a size of letters; a number and its sign stay together."""
    together = re.sub(r" (?=%)| (?==)|(?<==) ", "\u00a0", text)
    return textwrap.fill(together, round(inches / (LETTER * points / 10.5)), break_on_hyphens=False)


def _beside(panel: Panel, x: Series, steps: float) -> Series:
    """Points moved a little along the axis, so that the bars of lines do not hide each other."""
    last = max(float(line.x[-1]) for line in panel.lines)
    if panel.scale == "linear":
        return x + steps * DODGE * last
    first = min(float(line.x[0]) for line in panel.lines)
    return np.asarray(x * (last / max(first, 1.0)) ** (steps * DODGE), dtype=np.float64)


def _legend(ax: "Axes", panel: Panel, handles: Mapping[str, Any]) -> None:
    """A legend beside the lines, in the order in which they end."""
    ordered = sorted(panel.lines, key=lambda line: -float(line.y[-1]))
    labels = [line.label for line in ordered]
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "handlelength": 2.6}
    legend = ax.legend([handles[label] for label in labels], labels, alignment="left", **place)
    if any(line.band is not None for line in panel.lines):
        legend.set_title(panel.band)


def _one_legend(figure: "Figure", drawn: Sequence[tuple[Panel, Mapping[str, Any]]]) -> None:
    """A legend right of all panels, the lines of each part of the figure under its name."""
    from matplotlib.lines import Line2D

    parts: dict[str, dict[str, Any]] = {panel.part: {} for panel, _ in drawn}
    # The largest panel has its lines in order; others add what it lacks.
    for panel, handles in sorted(drawn, key=lambda pair: -len(pair[0].lines)):
        for label, handle in handles.items():
            parts[panel.part].setdefault(label, handle)
    blank = Line2D([], [], linestyle="none")
    bands = dict.fromkeys(panel.band for panel, _ in drawn if any(line.band is not None for line in panel.lines))
    entries = [(blank, band) for band in bands]
    for part, lines in parts.items():
        entries += [(blank, ""), (blank, part), *((handle, label) for label, handle in lines.items())]
    figure.legend(*zip(*entries, strict=True), loc="outside right center", handlelength=2.6, alignment="left")


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """The ends of the y axis, in percent: the fives around the lines and their bands."""
    lines = [line for panel in panels for line in panel.lines]
    ends = [100 * end for line in lines for end in (line.y, *(line.band or ()))]
    bottom, top = min(float(end.min()) for end in ends), max(float(end.max()) for end in ends)
    return max(0.0, 5 * np.floor(bottom / 5 - 0.1)), min(100.0, 5 * np.ceil(top / 5 + 0.1)) + 0.5


def _apart(ticks: Sequence[float], first: float, last: float) -> list[float]:
    """The first and the last of ascending `ticks`, and from the left all that have room beside these."""
    inch = (last - first) / (0.6 * WIDTH) or 1.0
    kept = [ticks[0], ticks[-1]]
    for tick in ticks[1:-1]:
        room = (LETTER * (len(f"{tick:g}") + len(f"{other:g}")) / 2 + LETTER for other in kept)
        if all(abs(tick - other) >= need * inch for other, need in zip(kept, room, strict=True)):
            kept.append(tick)
    return sorted(set(kept))


def _scale(ax: "Axes", panel: Panel) -> None:
    """Lay out the x axis."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

    ticks, last = panel.ticks, max(float(line.x[-1]) for line in panel.lines)
    if panel.scale == "linear":
        ax.set_xlim(0, last * 1.01)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
        ticks = tuple(_apart(ticks, 0.0, last)) if ticks else ()
    elif panel.scale == "symlog":
        ticks = (0, *(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if step <= last))
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.set_xlim(0, last * 1.05)
    else:
        first = min(float(line.x[0]) for line in panel.lines)
        ax.set_xscale("log")
        ax.set_xlim(first / 1.1, last * 1.1)
    if ticks:
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
