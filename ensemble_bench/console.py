"""What the command line prints: progress bars, tables and the one line of an error."""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ensemble_bench import registry
from ensemble_bench.records import Record

if TYPE_CHECKING:
    from ensemble_bench.reports import Report

# Columns of a file or a pipe, which cannot say how wide they are: enough for every table.
WIDE = 160
# What stands behind a name that has no description of its own.
DESCRIPTIONS = {
    "attack": {
        "ifgsm": "N sign steps (Kurakin et al. 2017)",
        "pgd": "N Adam steps on the raw gradient from a random start (Grefenstette et al. 2018)",
        "margin": "N sign steps on the margin loss (Carlini & Wagner 2017)",
        "apgd": "Auto-PGD on the cross-entropy (Croce & Hein 2020)",
        "apgd-dlr": "Auto-PGD on the difference of logits ratio (Croce & Hein 2020)",
        "blackbox": "images that fool two networks the model has not seen",
    },
    "data set": {
        "digits": "1,797 handwritten digits of 8x8 pixels, embedded",
        "cifar10": "60,000 colour images of 32x32 pixels in 10 classes, from --data-dir or a download",
    },
    "backbone": {
        "wrn": "Wide ResNet of a depth and a width (Zagoruyko & Komodakis 2016)",
        "preact_resnet18": "pre-activation ResNet-18 (He et al. 2016)",
        "vgg16_bn": "VGG-16 with batch norm (Simonyan & Zisserman 2015)",
        "small_cnn": "a small network for 8x8 images",
    },
}


class Bars:
    """A `Progress` that draws a bar for every label under way, and prints one line for each that is done."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[shown]}"),
            console=self._console,
            # Without a terminal there is nothing to redraw: the line a finished label prints is the log.
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, label: str, done: int, total: int, **fields: float | str) -> None:
        """Move the bar of `label` to `done` of `total`, with `fields` beside it."""
        shown = " ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items()
        )
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total, shown=shown)
            self._started[label] = time.monotonic()
        self._bars.update(self._tasks[label], completed=done, total=total, shown=shown)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(label))
            seconds = time.monotonic() - self._started.pop(label)
            self._console.print(f"{label}: {done}/{total} in {seconds:.1f} s  {shown}".rstrip(), markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; the first column is text, the others are aligned right."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    drawn = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        drawn.add_column(escape(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    console.print(drawn)


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def show_records(records: Sequence[Record]) -> None:
    """Print one table for each suite, the most robust model first, then the warnings and where the records lie."""
    for suite in dict.fromkeys(record.suite for record in records):
        chosen = sorted((r for r in records if r.suite == suite), key=lambda r: (-r.robust.accuracy, r.model))
        attacks = list(dict.fromkeys(attack.name for record in chosen for attack in record.attacks))
        rows = []
        for record in chosen:
            found = [record.attack(name) for name in attacks]
            robust = record.robust
            worst = f"{_percent(robust.accuracy)} [{_percent(robust.ci_low)}, {_percent(robust.ci_high)}]"
            shown = [_percent(attack.accuracy if attack else None) for attack in found]
            rows.append([record.model, record.n, _percent(record.clean.accuracy), *shown, worst])
        title = f"suite {suite}: accuracy in %, worst case over all attacks with its 95 % interval"
        table(title, ["model", "n", "clean", *attacks, "worst case"], rows)
    for record in records:
        for warning in record.warnings:
            print(f"warning: {record.model}: {warning.name}: {warning.message}")
    for record in records:
        if record.path is not None:
            print(record.path)


def show_report(report: "Report") -> None:
    """Print Table 1 and its verdicts, then the paths of all that was written."""
    for shown in report.tables:
        table(shown.title, shown.columns, shown.text_rows())
        print(f"{shown.caption}\n")
    for line in (*report.verdicts, *report.notes, *report.paths):
        print(line)


def show_names(title: str, kind: str) -> None:
    """Print the names of a kind, with what each stands for."""
    print(f"{title}:")
    shown = {f"{name}N" if kind == "attack" and name != "blackbox" else name: name for name in registry.names(kind)}
    width = max(map(len, shown))
    for label, name in shown.items():
        print(f"  {label.ljust(width)}  {_describe(kind, name)}")


def _describe(kind: str, name: str) -> str:
    if kind in ("recipe", "preset"):
        return str(registry.resolve(kind, name).description)
    if kind == "suite":
        suite = registry.resolve(kind, name)
        return f"{suite.description} ({', '.join(suite.attacks)})"
    return DESCRIPTIONS[kind][name]
