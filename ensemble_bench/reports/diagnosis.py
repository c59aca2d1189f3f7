"""A diagnosis as CSV, Markdown, tables for the terminal, and one figure; equal findings, equal bytes."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.files import write_atomic
from ensemble_bench.records.diagnosis import ENSEMBLE, Diagnosis, Finding, without
from ensemble_bench.records.statistics import wilson
from ensemble_bench.records.table import ABSENT, Cell, Table, Value, percent, to_csv, to_markdown
from ensemble_bench.reports.figures.lines import STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

NAME = "diagnosis"
KEYS = ("quantity", "a", "b", "value", "n")
SIZE = (11.5, 7.2)  # inches
PALE, DARK, FALLEN = "#BBD7EA", "#0072B2", "#D55E00"  # without attack, under attack, where the ensemble falls


def write_diagnosis(diagnosis: Diagnosis, out: Path) -> tuple[Path, ...]:
    """Write diagnosis.csv, .md, .png and .pdf into the folder `out`; return their paths."""
    base = Path(out) / NAME
    written = [base.with_suffix(".csv"), base.with_suffix(".md")]
    write_atomic(written[0], to_csv([_tidy(diagnosis)]))
    head = f"# Diagnosis of {diagnosis.model}\n\n{_conditions(diagnosis)}\n\n![diagnosis]({NAME}.png)\n\n"
    write_atomic(written[1], head + to_markdown(tables(diagnosis)))
    return (*written, *_write_figure(figure_of(diagnosis), base))


def tables(diagnosis: Diagnosis) -> tuple[Table, ...]:
    """Render the findings as tables for readers: the members, transfer, gradient cosines, members fooled at once."""
    return _members(diagnosis), _transfer(diagnosis), _cosine(diagnosis), _fooled(diagnosis)


def _conditions(d: Diagnosis) -> str:
    return f"{d.data_name} {d.split}, n = {d.n:,}, {d.threat}, {d.attack}, seed {d.seed}"


def _tidy(d: Diagnosis) -> Table:
    """Every finding as a row, with what it was measured on, so that the files of several runs can be joined."""
    about = {
        "model": d.model,
        "weights_hash": d.weights_hash,
        "dataset": d.data_name,
        "split": d.split,
        "norm": d.threat.norm,
        "eps": repr(d.threat.eps),
        "attack": d.attack,
        "seed": str(d.seed),
    }
    rows = tuple((f.quantity, f.a, f.b, None if f.value is None else f"{f.value:.6f}", str(f.n)) for f in d.findings)
    return Table(name=NAME, title="Diagnosis", caption="", columns=KEYS, keys=KEYS, rows=rows, about=about)


def _interval(finding: Finding) -> Value:
    """An accuracy with its 95 % interval."""
    assert finding.value is not None
    low, high = wilson(round(finding.value * finding.n), finding.n)
    return Value(accuracy=finding.value, ci_low=low, ci_high=high)


def _share(value: float | None) -> Cell:
    return None if value is None else Value(accuracy=value)


def _signed(value: float | None) -> Cell:
    return None if value is None else f"{value:.2f}".replace("-", "−")


def _table(name: str, title: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    made = tuple(map(tuple, rows))
    return Table(
        name=f"{NAME}-{name}", title=title, caption=caption, columns=tuple(columns), keys=tuple(columns), rows=made
    )


def _members(d: Diagnosis) -> Table:
    def row(name: str) -> list[Cell]:
        own: list[Cell] = [name, *(_interval(d.find(f"{kind}_accuracy", name)) for kind in ("clean", "robust"))]
        if name == ENSEMBLE:
            return [*own, None, None, None]
        shares = [_share(d.value(f"share_{kind}", name)) for kind in ("clean", "adversarial")]
        return [*own, _interval(d.find("robust_accuracy", without(name))), *shares]

    return _table(
        "members",
        f"Members of {d.model}",
        f"Accuracies in % with 95 % intervals, each under its own attack, and the part of p̄_y that comes from a "
        f"member ({_conditions(d)}).",
        ("model", "clean", "robust", "ensemble without it, robust", "part of p̄_y, clean", "part of p̄_y, adversarial"),
        [row(name) for name in (ENSEMBLE, *d.names)],
    )


def _transfer(d: Diagnosis) -> Table:
    everyone = (*d.names, ENSEMBLE)
    return _table(
        "transfer",
        "Transfer",
        "Of the images that both classify correctly, % on which x_adv made against the row fools the column.",
        ("x_adv against", *everyone),
        [[source, *(_share(d.value("transfer", source, target)) for target in everyone)] for source in everyone],
    )


def _cosine(d: Diagnosis) -> Table:
    pairs = [(f.a, f.b) for f in d.findings if f.quantity == "cosine_clean"]
    return _table(
        "cosine",
        "Gradient cosine",
        "Mean cosine of the input gradients of −log p_y, at the clean images and at x_adv against the ensemble.",
        ("members", "clean", "adversarial"),
        [
            [f"{a}, {b}", *(_signed(d.value(f"cosine_{kind}", a, b)) for kind in ("clean", "adversarial"))]
            for a, b in pairs
        ],
    )


def _fooled(d: Diagnosis) -> Table:
    counts = [str(count) for count in range(d.members + 1)]
    return _table(
        "fooled",
        "Members fooled at once",
        "Of the images that the ensemble classifies correctly, % whose x_adv, made against the ensemble, so many "
        "members misclassify; of these, % that the ensemble misclassifies.",
        ("members fooled", "images", "ensemble falls"),
        [[count, *(_share(d.value(kind, count)) for kind in ("members_fooled", "ensemble_falls"))] for count in counts],
    )


def figure_of(diagnosis: Diagnosis) -> "Figure":
    """Return the figure: transfer, gradient cosines, the members' parts of p̄, members fooled at once, accuracies."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with style.context(["default", STYLE], after_reset=True):  # the user's own settings would change the bytes
        figure = Figure(figsize=SIZE, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        setting = f"{diagnosis.model}: {_conditions(diagnosis)}"
        figure.suptitle(f"{_seen(diagnosis)}\n{setting}", x=0.01, ha="left", fontsize=11)
        grid = figure.add_gridspec(2, 3)
        _transfer_map(figure.add_subplot(grid[0, 0]), diagnosis)
        _cosine_map(figure.add_subplot(grid[0, 1]), diagnosis)
        _share_bars(figure.add_subplot(grid[1, 0]), diagnosis)
        _fooled_bars(figure.add_subplot(grid[1, 1]), diagnosis)
        _accuracy_bars(figure.add_subplot(grid[:, 2]), diagnosis)
    return figure


def _write_figure(figure: "Figure", path: Path) -> list[Path]:
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with style.context(["default", STYLE], after_reset=True):
        return save_figure(figure, path)


def _numbers(values: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """A matrix, None as NaN."""
    return np.array(values, dtype=np.float64)


def _short(d: Diagnosis) -> list[str]:
    """Labels of the members where "member" stands beside the axis."""
    return [str(index + 1) for index in range(d.members)]


def _seen(d: Diagnosis) -> str:
    """What the figure shows, in a sentence: how much the ensemble keeps, and how much its members alone."""
    alone = sorted(_interval(d.find("robust_accuracy", name)).accuracy for name in d.names)
    whole = _interval(d.find("robust_accuracy", ENSEMBLE)).accuracy
    span = " to ".join(dict.fromkeys(percent(value) for value in (alone[0], alone[-1])))
    return f"The ensemble keeps {percent(whole)} %, its members alone {span} %"


def _transfer_map(ax: "Axes", d: Diagnosis) -> None:
    everyone = (*d.names, ENSEMBLE)
    matrix = _numbers([[d.value("transfer", source, target) for target in everyone] for source in everyone])
    _heat_map(ax, 100 * matrix, [*_short(d), "all"], "Blues", (0, 100), "{:.0f}")
    ax.set(title="Transfer (% fooled)", xlabel="tested on member", ylabel="x_adv against member")


def _cosine_map(ax: "Axes", d: Diagnosis) -> None:
    matrix = np.full((d.members, d.members), np.nan)
    for i, j in combinations(range(d.members), 2):
        (matrix[i, j], matrix[j, i]), *_ = _numbers(
            [[d.value(f"cosine_{kind}", d.names[i], d.names[j]) for kind in ("clean", "adversarial")]]
        )
    _heat_map(ax, matrix, _short(d), "RdBu_r", (-1, 1), "{:.2f}")
    ax.set(title="Gradient cosine", xlabel="member (upper right: clean; lower left: x_adv)", ylabel="member")


def _heat_map(
    ax: "Axes",
    matrix: NDArray[np.float64],
    labels: Sequence[str],
    colours: str,
    span: tuple[float, float],
    form: str,
) -> None:
    """Draw a square of numbers, coloured from the first to the second value of `span`."""
    ax.imshow(matrix, cmap=colours, vmin=span[0], vmax=span[1])
    ax.set_xticks(range(len(labels)), labels)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    size = min(10.0, 44 / len(labels))
    for (row, column), value in np.ndenumerate(matrix):
        if np.isnan(value) and row == column:
            continue
        text = ABSENT if np.isnan(value) else form.format(value).replace("-", "−")
        colour = "white" if abs(value) > 0.6 * span[1] else "#222222"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _share_bars(ax: "Axes", d: Diagnosis) -> None:
    at = np.arange(d.members)
    values = 100 * _numbers([[d.value(f"share_{kind}", name) for name in d.names] for kind in ("clean", "adversarial")])
    ax.axhline(100 / d.members, color="#555555", linestyle=(0, (4, 2)), linewidth=0.9, zorder=0.9)
    for heights, offset, colour, of in zip(values, (-0.2, 0.2), (PALE, DARK), ("clean", "x_adv"), strict=True):
        bars = ax.bar(at + offset, heights, width=0.38, color=colour, label=of)
        _label(ax, bars, heights)
    ax.set_xticks(at, _short(d))
    ax.set(title="Part of p̄ of the right class (%)", xlabel="member", ylim=(0, 1.15 * values.max()))
    _finish_bars(ax)


def _fooled_bars(ax: "Axes", d: Diagnosis) -> None:
    counts = [str(count) for count in range(d.members + 1)]
    images = np.array([100 * (d.value("members_fooled", count) or 0.0) for count in counts])
    fallen = images * np.array([d.value("ensemble_falls", count) or 0.0 for count in counts])
    ax.bar(counts, fallen, color=FALLEN, label="the ensemble falls", width=0.7)
    bars = ax.bar(counts, images - fallen, bottom=fallen, color=PALE, label="it stands", width=0.7)
    _label(ax, bars, images)
    ax.set(title="Images (%) by members fooled", xlabel="members fooled by x_adv of the ensemble")
    ax.set_ylim(0, 1.15 * max(images.max(), 1.0))
    _finish_bars(ax)


def _accuracy_bars(ax: "Axes", d: Diagnosis) -> None:
    names = (ENSEMBLE, *d.names, *map(without, d.names))
    robust = [_interval(d.find("robust_accuracy", name)) for name in names]
    values = np.array([100 * value.accuracy for value in robust])
    ends = abs(100 * _numbers([[v.ci_low, v.ci_high] for v in robust]).T - values)
    clean = [100 * (d.value("clean_accuracy", name) or 0.0) for name in names]
    ax.barh(names, clean, color=PALE, label="clean", height=0.7)
    ax.barh(names, values, color=DARK, label="robust, 95 % interval", height=0.7, xerr=ends, ecolor="#222222")
    for row, value in enumerate(robust):
        ax.text(1.02, row, percent(value.accuracy), va="center", fontsize=8, transform=ax.get_yaxis_transform())
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(title="Accuracy (%)", xlim=(0, min(100.0, 10 * np.ceil(max(*clean, *values, 10.0) / 10 + 0.1))))
    _finish_bars(ax, values="x")


def _label(ax: "Axes", bars: "BarContainer", values: NDArray[np.float64]) -> None:
    """Write the percentages over the bars, readable where they cross the dashed line."""
    size = min(8.0, 48 / len(values))
    for text in ax.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=size, padding=1):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})


def _finish_bars(ax: "Axes", *, values: Literal["x", "y"] = "y") -> None:
    """Grid lines across the axis of the `values` only; the legend below."""
    ax.grid(visible=False, axis="x" if values == "y" else "y")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18 if values == "y" else -0.04), fontsize=8, ncols=2)
