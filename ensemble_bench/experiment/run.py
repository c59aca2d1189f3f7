"""Carry out jobs on a pool of workers: what can start does, what fails holds up only what needs it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from ensemble_bench.experiment.board import Board, Event
from ensemble_bench.experiment.plan import Job

# How long to wait for news before the table is drawn again, in seconds.
PATIENCE = 0.5


class Pool(Protocol):
    """Workers that do jobs: processes of this machine, or of a cluster."""

    @property
    def workers(self) -> int:
        """How many jobs may be under way at once."""

    def prepare(self, jobs: int) -> None:
        """Start the workers that so many jobs can use, so that they are ready when the first job comes."""

    def start(self, job: Job) -> None:
        """Hand `job` to an idle worker."""

    def events(self, seconds: float) -> Sequence[Event]:
        """What happened, after waiting at most so long for something to happen."""

    def close(self) -> None:
        """Interrupt what is under way, so that it keeps what it has, and end all workers."""


def run(board: Board, pool: Pool, *, show: Callable[[Board], None]) -> None:
    """Do all jobs of `board`; `show` is called whenever it may have changed. Whoever made the pool closes it."""
    running: set[str] = set()
    while True:
        for job in board.ready(pool.workers):
            if len(running) >= pool.workers:
                break
            board.start(job)
            pool.start(job)
            running.add(job.name)
        show(board)
        if board.is_over:
            return
        for event in pool.events(PATIENCE):
            board.hear(event)
            if event.kind != "progress":
                running.discard(event.job)
