"""Progress without a terminal, on a clock that the tests move."""

import mmap
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ensemble_bench.cli.bars import Bars, shown_progress
from ensemble_bench.cli.lines import Lines, described, duration, memory_in_use
from ensemble_bench.training.trainer import train


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def logged(clock: Callable[[], float]) -> tuple[Lines, list[str]]:
    """Progress, and the list that its lines go to."""
    lines: list[str] = []
    return Lines(write=lines.append, clock=clock, memory=lambda: "512 MiB"), lines


def test_a_stage_has_a_line_at_its_start_every_30_seconds_and_at_its_end() -> None:
    clock = Clock()
    progress, lines = logged(clock)
    progress("train a", 0, 400)
    for step in range(1, 401):
        clock.passes(0.25)
        progress("train a", step, 400, loss=1.2345 if step > 200 else 2.0)
    assert lines == [
        "train a: started, 400 to do, memory 512 MiB",
        "train a: 120 of 400 (30 %), 4/s, 1:10 left, loss 2.000, memory 512 MiB",
        "train a: 240 of 400 (60 %), 4/s, 0:40 left, loss 1.234, memory 512 MiB",
        "train a: 360 of 400 (90 %), 4/s, 0:10 left, loss 1.234, memory 512 MiB",
        "train a: done, 400 in 1:40, 4/s, loss 1.234, memory 512 MiB",
    ]


def test_the_rate_is_of_this_process_alone() -> None:
    clock = Clock()
    progress, lines = logged(clock)
    progress("train a", 300, 400)
    clock.passes(60)
    progress("train a", 303, 400)
    assert lines[0] == "train a: goes on at 300 of 400, memory 512 MiB"
    assert lines[1] == "train a: 303 of 400 (76 %), 0.05/s, 32:20 left, memory 512 MiB"


def test_a_long_step_is_no_silence() -> None:
    clock = Clock()
    progress, lines = logged(clock)
    progress("slow", 0, 10)
    clock.passes(29)
    progress.tick()
    assert len(lines) == 1
    clock.passes(2)
    progress.tick()
    progress.tick()
    assert lines[1:] == ["slow: 0 of 10 (0 %), for 0:31, memory 512 MiB"]


def test_what_was_done_before_is_one_line() -> None:
    progress, lines = logged(Clock())
    progress("train a", 400, 400, status="finished before")
    progress("b clean", 20, 20, accuracy=0.95)
    progress("join c", 2, 2)
    assert lines == [
        "train a: finished before, memory 512 MiB",
        "b clean: accuracy 0.950, memory 512 MiB",
        "join c: done, memory 512 MiB",
    ]


def test_what_was_left_unfinished_is_said_at_the_end() -> None:
    clock = Clock()
    progress, lines = logged(clock)

    with progress:
        progress("train a", 0, 9)
        progress("train a", 4, 9)
        clock.passes(5)
    assert lines[-1] == "train a: stopped at 4 of 9 after 0:05, memory 512 MiB"
    assert len(lines) == 2


def test_a_training_logs_its_stages_and_accuracies(tmp_path: Path) -> None:
    clock = Clock()
    progress, lines = logged(clock)

    def slowly(label: str, done: int, total: int, **fields: float | str) -> None:
        clock.passes(10)
        progress(label, done, total, **fields)

    train("baseline", out=tmp_path / "run", max_steps=7, settings={"evaluate_every": 2}, progress=slowly)
    assert lines[0].startswith("train run: started, 7 to do")
    assert [line.split()[2] for line in lines[1:-1]] == ["3", "6"]
    assert all("0.1/s" in line and "left, loss " in line and ", ifgsm5 0." in line for line in lines[1:-1])
    assert lines[-1].startswith("train run: done, 7 in 1:10, 0.1/s, loss ")


def test_bars_are_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(shown_progress(), Lines)
    with shown_progress() as progress:
        progress("job", 0, 2)
        progress("job", 2, 2, clean=0.5)
    started, done = capsys.readouterr().err.splitlines()
    assert " job: started, 2 to do" in started
    assert " job: done, 2 in 0:0" in done
    with Bars(Console(stderr=True, force_terminal=True, width=100, highlight=False)) as bars:
        bars("job", 0, 2)
        bars("job", 2, 2, clean=0.5)
    assert "job: 2/2 in " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (7, "0:07"), (88, "1:28"), (59.7, "1:00"), (93790, "26:03:10")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_fields_as_people_read_them() -> None:
    assert described({"loss": 1.23456, "standing": 12, "status": "built before"}) == (
        "loss 1.235, standing 12, built before"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux says it")
def test_memory_is_what_the_process_holds() -> None:
    def held() -> int:
        return int(memory_in_use().removesuffix(" MiB"))

    before = held()
    # Fresh pages of the system: an array may get memory that the process holds already.
    with mmap.mmap(-1, 64 * 2**20) as pages:
        pages[:: mmap.PAGESIZE] = bytes([1]) * (len(pages) // mmap.PAGESIZE)
        assert before + 32 < held()
