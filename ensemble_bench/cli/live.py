"""The live table of an experiment: on a terminal redrawn in place, elsewhere a line at each event and every 30 s."""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ensemble_bench.experiment.board import DONE, FAILED, RUNNING, SKIPPED, WAITING, Board, Status
from ensemble_bench.experiment.plan import Job
from ensemble_bench.progress import duration

# Seconds between two lines where there is no terminal.
EVERY = 30.0
# Lines of a terminal that the table leaves to what stands below it.
BELOW = 14
STYLES = {DONE: "green", FAILED: "bold red", SKIPPED: "red", RUNNING: "bold", WAITING: "dim"}


class LiveTable:
    """Shows a board, for `workers` workers: call it as often as the board may have changed."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        terminal = self._console.is_terminal
        self._live = Live(console=self._console, refresh_per_second=2, transient=True) if terminal else None
        self._said = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, board: Board) -> None:
        """Draw the board again, or print what is new."""
        for line in board.news:
            self._console.print(line, markup=False)
        board.news.clear()
        if self._live is not None:
            self._live.update(self._drawn(board))
        elif time.monotonic() - self._said >= EVERY or board.is_over:
            self._said = time.monotonic()
            self._console.print(
                "; ".join([summary(board, self._workers), *map(_under_way, _running(board))]), markup=False
            )

    def _drawn(self, board: Board) -> RenderableType:
        room = max(self._console.height - BELOW, 5)
        below = [summary(board, self._workers), *map(_under_way, _running(board)), *_failures(board)]
        return Group(_table(board, room), *(escape(line) for line in below))


def summary(board: Board, workers: int) -> str:
    """How many jobs are in which state, and when all will be done: "12 of 40 jobs done, 2 running, 26 waiting, …"."""
    states = [f"{board.count(DONE)} of {len(board.of)} jobs done"]
    states += [f"{n} {state}" for state in (RUNNING, WAITING, FAILED, SKIPPED) if (n := board.count(state))]
    left = board.left(workers)
    return ", ".join(states) + (f"; about {duration(left)} left" if left else "")


def _running(board: Board) -> Iterator[tuple[Job, Status, float]]:
    return ((job, status, board.left_of(job)) for job, status in board if status.state == RUNNING)


def _under_way(running: tuple[Job, Status, float]) -> str:
    """One job under way: "train singleadv-digits-tiny-s0: 120/400, loss 1.2, 8 s left"."""
    job, status, left = running
    shown = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in status.fields.items()
    ]
    label = "" if job.name.endswith(status.label) else f" {status.label.removeprefix(job.row)}"
    at = [f"{status.done}/{status.total}"] if status.total else []
    return f"{job.name}:{label} {', '.join([*at, *shown, *([f'{duration(left)} left'] if left else [])])}"


def _failures(board: Board) -> list[str]:
    return [
        f"{status.state}: {job.name}: {status.reason}" for job, status in board if status.state in (FAILED, SKIPPED)
    ]


def _table(board: Board, room: int) -> Table:
    """A row a run and a column a kind of work; where they do not fit, runs of which all is done or waits go first."""
    rows: dict[str, dict[str, list[tuple[Job, Status]]]] = {}
    columns: dict[str, None] = {}
    for job, status in board:
        rows.setdefault(job.row, {}).setdefault(job.column, []).append((job, status))
        columns[job.column] = None
    states = {row: {s.state for part in cells.values() for _, s in part} for row, cells in rows.items()}
    shown = list(rows)
    if len(rows) > room:
        shown = [row for row in rows if states[row] not in ({DONE}, {WAITING})][:room]
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("run", *columns):
        drawn.add_column(escape(column), no_wrap=True)
    for row in shown:
        drawn.add_row(escape(row), *(_cell(board, rows[row].get(column, [])) for column in columns))
    if hidden := len(rows) - len(shown):
        done = sum(states[row] == {DONE} for row in rows)
        drawn.add_row(f"… {hidden} more runs, {done} of them done")
    return drawn


def _cell(board: Board, jobs: Sequence[tuple[Job, Status]]) -> str:
    """The state of one kind of work on a run: of several jobs the worst news first, and the share that is done."""
    if not jobs:
        return ""
    states = [status.state for _, status in jobs]
    if all(state == DONE for state in states):
        text, state = DONE, DONE
    else:
        state = next(s for s in (FAILED, SKIPPED, RUNNING, WAITING, DONE) if s in states)
        text = state
        if state == RUNNING:
            left = sum(board.left_of(job) for job, _ in jobs)
            share = sum(job.share * _share(status, board.left_of(job)) for job, status in jobs)
            text = f"{100 * share:.0f} %" + (f" {duration(left)}" if left else "")
    return f"[{STYLES[state]}]{text}[/]"


def _share(status: Status, left: float) -> float:
    """The part of a job that is done: of a training its steps, of an evaluation the time that it is thought to take."""
    if status.state != RUNNING:
        return float(status.state == DONE)
    if status.label.startswith("train ") and status.total:
        return status.done / status.total
    spent = time.monotonic() - status.started
    return spent / (spent + left) if left else 0.0
