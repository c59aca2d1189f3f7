"""Progress of long jobs: bars on a terminal, plain lines elsewhere."""

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ensemble_bench import progress
from ensemble_bench.cli.lines import Lines, described
from ensemble_bench.training import launched


def shown_progress() -> AbstractContextManager[progress.Progress]:
    """A context, and the `Progress` to hand to a job: bars where stderr is a terminal, else plain lines.

    Nothing in processes after the first of several that were launched together.
    """
    if launched.rank() > 0:
        return nullcontext(progress.silent)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return Bars(console) if console.is_terminal else Lines()


class Bars:
    """A `Progress` that draws a bar for every label under way, and prints one line for each that is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[shown]}"),
            console=self._console,
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
        shown = described(fields)
        if label not in self._tasks and done >= total and shown:  # nothing was timed, as of what was done before
            self._console.print(f"{label}: {shown}", markup=False)
            return
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total, completed=done, shown=shown)
            self._started[label] = time.monotonic()
        # A total that shrinks on the way is set by itself: with `update`, the time left would start from nothing.
        next(task for task in self._bars.tasks if task.id == self._tasks[label]).total = total
        self._bars.update(self._tasks[label], completed=done, shown=shown)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(label))
            seconds = time.monotonic() - self._started.pop(label)
            self._console.print(f"{label}: {done}/{total} in {seconds:.1f} s  {shown}".rstrip(), markup=False)
