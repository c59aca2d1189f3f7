"""Panels of lines (accuracies over steps or eps) as PNG and PDF: equal data give equal bytes."""

import io
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
WIDTH, HEIGHT = 7.0, 3.6  # inches, of one panel

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
    """The lines of one group, with what is measured on them; `omitted` names its runs that were not measured so.

    The x axis is "linear" from 0, "symlog" (logarithmic from 1, and 0 beside it) or "log"; the y axis starts at 0 where
    `from_zero` holds. `band` says what the bands are; `ticks` stand on the x axis, by default where they fit.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    omitted: tuple[str, ...] = ()
    scale: str = "linear"
    from_zero: bool = True
    band: str = "mean ± sd over seeds"
    ticks: tuple[float, ...] = ()


def write_figure(panels: Sequence[Panel], path: Path, *, columns: int = 1) -> list[Path]:
    """Draw `panels` row by row and write them to `path` with the suffixes .png and .pdf; return both paths."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", STYLE], after_reset=True):  # the user's own settings would change the bytes
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax, panel in zip(axes, panels, strict=False):
            _draw(ax, panel)
        for ax in axes[len(panels) :]:
            ax.remove()
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


def _draw(ax: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    spare = iter(SPARE * (1 + len(panel.lines) // len(SPARE)))
    for line in panel.lines:
        colour, dashes = LOOKS.get(line.look) or (next(spare), "-")
        marker = line.marker if len(line.x) <= 30 else None
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 3}
        ax.plot(line.x, 100 * line.y, label=line.label, clip_on=False, **look)  # unclipped: 0 % stays visible
        if line.band is not None:
            low, high = (np.clip(100 * end, 0, 100) for end in line.band)
            ax.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    ax.set_ylim(*_limits(panel))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    _scale(ax, panel)
    legend = ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=2.6, alignment="left")
    if any(line.band is not None for line in panel.lines):
        legend.set_title(panel.band)


def _limits(panel: Panel) -> tuple[float, float]:
    """The ends of the y axis, in percent: 0, or the tens around the data."""
    top = max(float(100 * line.y.max()) for line in panel.lines)
    bottom = 0.0 if panel.from_zero else min(float(100 * line.y.min()) for line in panel.lines)
    return max(0.0, 10 * np.floor(bottom / 10 - 0.2)), min(100.0, 10 * np.ceil(top / 10 + 0.2)) + 0.5


def _scale(ax: "Axes", panel: Panel) -> None:
    """Lay out the x axis."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

    ticks, last = panel.ticks, max(float(line.x[-1]) for line in panel.lines)
    if panel.scale == "linear":
        ax.set_xlim(0, last * 1.01)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
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
        ax.xaxis.set_major_formatter(ScalarFormatter())
