"""The board and the loop: what fails holds up only what needs it, and a lost job is taken up again."""

import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ensemble_bench.cli.reproduce import _cores, _pool
from ensemble_bench.experiment import board as boards
from ensemble_bench.experiment import local
from ensemble_bench.experiment.board import DONE, FAILED, RUNNING, SKIPPED, WAITING, Board, Event
from ensemble_bench.experiment.local import LocalPool
from ensemble_bench.experiment.plan import Experiment, Job
from ensemble_bench.experiment.run import run
from ensemble_bench.experiment.worker import INTERRUPTED


def a_job(name: str, *needs: str, call: str = "evaluate") -> Job:
    return Job(name=name, call=call, arguments={}, row=name, column="c", needs=needs)


class Scripted:
    """A pool whose jobs end as `ends` says, one a call of `events`: "done", "failed", or "lost" so often."""

    def __init__(self, workers: int, **ends: str | int) -> None:
        self.workers, self.ends = workers, ends
        self.under_way: list[Job] = []
        self.started: list[str] = []
        self.most = 0

    def start(self, job: Job) -> None:
        self.started.append(job.name)
        self.under_way.append(job)
        self.most = max(self.most, len(self.under_way))

    def events(self, seconds: float) -> Sequence[Event]:
        job = self.under_way.pop(0)
        end = self.ends.get(job.name, "done")
        if isinstance(end, int):
            self.ends[job.name] = end - 1 if end > 1 else "done"
            return [Event(job=job.name, kind="lost", reason="its worker died (SIGKILL)")]
        return [Event(job=job.name, kind=end, reason="" if end == "done" else "no such thing")]

    def prepare(self, jobs: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def carry_out(pool: Scripted, *jobs: Job) -> Board:
    board = Board(jobs, expected={})
    run(board, pool, show=lambda board: None)
    return board


def test_a_failure_holds_up_only_what_needs_it() -> None:
    jobs = (a_job("a"), a_job("b", "a"), a_job("c", "b"), a_job("d"), a_job("e", "d"))
    board = carry_out(Scripted(2, a="failed"), *jobs)
    assert [status.state for _, status in board] == [FAILED, SKIPPED, SKIPPED, DONE, DONE]
    assert board.of["a"].reason == "no such thing"
    assert board.of["b"].reason == "needs a"
    assert board.of["c"].reason == "needs b"


def test_jobs_start_in_order_after_what_they_need_and_not_too_many_at_once() -> None:
    pool = Scripted(2)
    carry_out(pool, a_job("a"), a_job("b", "a"), a_job("c"), a_job("d", "c"), a_job("e"))
    assert pool.started == ["a", "c", "b", "d", "e"]
    assert pool.most == 2


def test_what_would_outlast_all_else_starts_first() -> None:
    expected = {"a": 1.0, "b": 2.0, "c": 2.0, "long": 3.0, "after": 4.0, "last": 6.0}
    jobs = (*map(a_job, ("a", "b", "c", "long")), a_job("after", "long"), a_job("last"))
    board = Board(jobs, expected=expected)  # 18 seconds in all; long and what follows take 7, last takes 6
    assert [job.name for job in board.ready(1)] == ["a", "b", "c", "long", "last"]
    assert [job.name for job in board.ready(3)] == ["long", "a", "b", "c", "last"]
    assert [job.name for job in board.ready(4)] == ["long", "last", "a", "b", "c"]
    for name in ("long", "a"):
        board.start(board.jobs[name])
        board.hear(Event(job=name, kind="done"))
    assert [job.name for job in board.ready(3)] == ["last", "b", "c", "after"]


@pytest.mark.parametrize(("losses", "state"), [(2, DONE), (3, FAILED)])
def test_a_job_whose_worker_dies_is_done_again_but_not_for_ever(losses: int, state: str) -> None:
    pool = Scripted(1, a=losses)
    board = carry_out(pool, a_job("a"), a_job("b", "a"))
    assert board.of["a"].state == state
    assert pool.started.count("a") == 3
    assert board.of["b"].state == (DONE if state == DONE else SKIPPED)
    assert board.of["a"].reason == ("" if state == DONE else "its worker died (SIGKILL), 3 times")


def test_prepared_workers_are_no_more_than_there_is_work_for_and_end_with_the_pool(tmp_path: Path) -> None:
    with closing(LocalPool(2, log=tmp_path / "workers.log")) as pool:
        pool.prepare(1)
        (first,) = pool.processes
        pool.prepare(5)
        assert pool.processes[0] is first
        assert len(pool.processes) == 2
        found = pool.processes
    assert [process.returncode for process in found] == [INTERRUPTED, INTERRUPTED]


def test_every_worker_has_a_gpu_of_its_own_and_a_new_one_that_of_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, env: dict[str, str], **options: Any) -> None:
            seen.append(env.get("CUDA_VISIBLE_DEVICES"))
            super().__init__(*args, env=env, **options)

    monkeypatch.setattr(local.subprocess, "Popen", Recorded)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    with closing(LocalPool(3, gpus=("2", "5"), log=tmp_path / "workers.log")) as pool:
        pool.prepare(3)
        assert seen == ["2", "5", "2"]
        pool.processes[1].kill()
        while len(pool.processes) == 3:
            pool.events(1.0)
        pool.prepare(3)
        assert seen[3:] == ["5"]
    with closing(LocalPool(1, log=tmp_path / "workers.log")) as pool:
        pool.prepare(1)
    assert seen[4:] == ["2,5,7"]


def test_by_default_there_are_as_many_workers_as_gpus(tmp_path: Path) -> None:
    experiment = cast(Experiment, SimpleNamespace(out=tmp_path))
    for asked, expected in ((None, 3), (5, 5)):
        with closing(_pool(experiment, ("0", "1", "2"), workers=asked, ray=None, gpus=0.0, lock=None)) as pool:
            assert pool.workers == expected
    with closing(_pool(experiment, (), workers=None, ray=None, gpus=0.0, lock=None)) as pool:
        assert pool.workers == _cores()


def test_the_time_left_follows_the_pace_of_a_training_and_of_finished_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(boards.time, "monotonic", lambda: now[0])
    jobs = [a_job("train", call="train"), a_job("x"), a_job("y"), a_job("z")]
    board = Board(jobs, expected={"train": 10.0, "x": 10.0, "y": 30.0, "z": 30.0}, kept=["z"])
    assert board.left(1) == 50.0  # what is there already takes no time
    board.start(jobs[0])
    board.hear(Event(job="train", kind="progress", label="train", done=40, total=100))  # resumed there
    now[0] += 20
    board.hear(Event(job="train", kind="progress", label="train", done=50, total=100))
    assert board.left_of(jobs[0]) == pytest.approx(100)
    board.start(jobs[1])
    now[0] += 5
    board.hear(Event(job="x", kind="done"))
    assert board.left_of(jobs[2]) == pytest.approx(15)  # its like took half of what was expected
    assert [status.state for _, status in board] == [RUNNING, DONE, WAITING, WAITING]
    assert board.news == ["done: x in 5.0 s"]
