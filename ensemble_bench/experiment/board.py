"""The board: the state of every job, and when each will be done."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ensemble_bench.experiment.plan import Job

WAITING, RUNNING, DONE, FAILED, SKIPPED = "waiting", "running", "done", "failed", "skipped"
# A worker that dies takes its job along; so often another one takes the job up.
TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Event:
    """News of a job: `kind` is "progress", "done", "failed" (for `reason`) or "lost" (its worker died of `reason`)."""

    job: str
    kind: str
    reason: str = ""
    label: str = ""
    done: int = 0
    total: int = 0
    fields: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Status:
    """State of one job; times are those of a monotonic clock, in seconds."""

    state: str = WAITING
    reason: str = ""
    started: float = 0.0
    ended: float = 0.0
    tries: int = 0
    label: str = ""
    done: int = 0
    total: int = 0
    fields: Mapping[str, float | str] = field(default_factory=dict)
    first: tuple[float, int] | None = None
    """When the label under way was first heard of, and how much of it was done then."""


class Board:
    """States of jobs, moved by `start` and `hear`; `expected` holds the seconds that each is thought to take.

    `kept` names the jobs whose results exist: they are looked through once more, and say nothing about time.
    """

    def __init__(self, jobs: Sequence[Job], *, expected: Mapping[str, float], kept: Iterable[str] = ()) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.expected = expected
        self.kept = frozenset(kept)
        self.of = {job.name: Status() for job in jobs}
        self.news: list[str] = []
        # What finished jobs of one call and column took, each against what it was thought to take.
        self._paces: dict[tuple[str, str], list[float]] = {}

    def __iter__(self) -> Iterator[tuple[Job, Status]]:
        return ((self.jobs[name], status) for name, status in self.of.items())

    def ready(self, workers: int = 1) -> list[Job]:
        """Jobs that can start, in the order to start them on `workers`; those that need a failed one are skipped.

        That is the plan's order, but the last to end decides when all is done: jobs that with all that follows from
        them take longer than an even share of the work come first, the longest of these chains before the others.
        """
        found = []
        for job, status in self:
            if status.state != WAITING:
                continue
            missing = next((need for need in job.needs if self.of[need].state in (FAILED, SKIPPED)), None)
            if missing is not None:
                status.state, status.reason = SKIPPED, f"needs {missing}"
                self.news.append(f"skipped: {job.name}: {status.reason}")
            elif all(self.of[need].state == DONE for need in job.needs):
                found.append(job)
        chains, share = self._chains(), self.left(workers)
        return sorted(found, key=lambda job: -chains[job.name] if chains[job.name] > share else 0.0)

    def start(self, job: Job) -> None:
        """`job` is under way."""
        status = self.of[job.name]
        status.state, status.started, status.tries = RUNNING, time.monotonic(), status.tries + 1
        status.first, status.label = None, ""

    def hear(self, event: Event) -> None:
        """Take in what happened to a job."""
        status = self.of[event.job]
        if event.kind == "progress":
            if event.label != status.label or status.first is None:
                status.first = (time.monotonic(), event.done)
            status.label, status.done, status.total = event.label, event.done, event.total
            status.fields = event.fields
            return
        status.ended = time.monotonic()
        if event.kind == "lost" and status.tries < TRIES:
            status.state = WAITING
            self.news.append(f"again: {event.job}: {event.reason}")
        elif event.kind == "done":
            status.state = DONE
            if event.job not in self.kept:
                self._finished(self.jobs[event.job], status.ended - status.started)
        else:
            status.state = FAILED
            status.reason = event.reason if event.kind == "failed" else f"{event.reason}, {status.tries} times"
            self.news.append(f"failed: {event.job}: {status.reason}")

    def _finished(self, job: Job, seconds: float) -> None:
        self.news.append(f"done: {job.name} in {seconds:.1f} s")
        if expected := self.expected.get(job.name):
            self._paces.setdefault((job.call, job.column), []).append(seconds / expected)

    def count(self, *states: str) -> int:
        """Number of jobs in these states."""
        return sum(status.state in states for status in self.of.values())

    @property
    def is_over(self) -> bool:
        """Whether no job waits or runs."""
        return not self.count(WAITING, RUNNING)

    def _chains(self) -> dict[str, float]:
        """Seconds until the end of every job and of the longest row of jobs that wait for it."""
        after = dict.fromkeys(self.jobs, 0.0)
        for job in reversed(self.jobs.values()):  # what is needed stands before what needs it
            after[job.name] += self.left_of(job)
            for need in job.needs:
                after[need] = max(after[need], after[job.name])
        return after

    def left_of(self, job: Job) -> float:
        """Seconds that a job will still take, by its own pace, else by that of jobs like it, else as expected."""
        status, now = self.of[job.name], time.monotonic()
        if status.state == RUNNING and job.call == "train" and status.first is not None:
            since, before = status.first
            if status.done > before:
                return (now - since) / (status.done - before) * (status.total - status.done)
        if status.state in (WAITING, RUNNING):
            spent = now - status.started if status.state == RUNNING else 0.0
            return max(self._usual(job) - spent, 0.0)
        return 0.0

    def left(self, workers: int) -> float:
        """Seconds until all is done, with the work spread evenly over so many workers."""
        return sum(self.left_of(job) for job, _ in self) / max(workers, 1)

    def _usual(self, job: Job) -> float:
        """The expectation, scaled by what finished jobs of the same column took against theirs."""
        expected = self.expected.get(job.name, 0.0)
        if job.name in self.kept:
            return 0.0
        paces = self._paces.get((job.call, job.column))
        return expected * fmean(paces) if paces else expected
