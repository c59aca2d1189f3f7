"""The command, with an experiment of seconds: killed anywhere and called again it ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small_factorial

from ensemble_bench import locks
from ensemble_bench.cli.reproduce import LOCK

SCRIPT = Path(small_factorial.__file__)
KILLS = 5


@contextmanager
def under_way(out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The command at work on `out` with two workers; its output is read by the caller."""
    command = [sys.executable, str(SCRIPT), *small_factorial.ARGUMENTS, "--out", str(out), "--workers", "2", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(out: Path, *more: str) -> tuple[int, str]:
    with under_way(out, *more) as process:
        said, _ = process.communicate()
    return process.returncode, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    status, said = finish(out)
    assert status == 0, said
    assert "9 of 9 jobs done" in said
    return out


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc")


def test_it_ends_with_records_a_report_and_a_leaderboard(whole: Path) -> None:
    runs = sorted(path.parent.name for path in whole.glob("*/run.json"))
    assert runs == [
        small_factorial.run_name(recipe, seed)
        for recipe, seed in (
            *(("baseline", 0), ("ensemble2adv", 0), ("separate2adv", 0)),
            *(("singleadv", 0), ("singleadv", 1)),
        )
    ]
    assert len(list(whole.rglob("record.json"))) == 4  # three on quick, and the one on paper500
    for file in (
        "report/report.md",
        "report/table1a.csv",
        "report/figure2a.png",
        "leaderboard.csv",
    ):
        assert (whole / file).exists(), file


@needs_proc
@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(KILLS):
        with under_way(tmp_path) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "jobs done" in line:  # the first line of the table: workers are starting
                    break
            time.sleep(draw.uniform(2, 6))
            workers = children(process.pid)
            process.send_signal(signal.SIGKILL)
        end = time.monotonic() + 10
        while any(map(is_alive, workers)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(is_alive, workers)), "a worker outlived the command that started it"
    status, said = finish(tmp_path)
    assert status == 0, said
    assert small_factorial.digests(tmp_path) == small_factorial.digests(whole)


@needs_proc
def test_a_killed_worker_costs_its_job_only(whole: Path, tmp_path: Path) -> None:
    with under_way(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "done: train" in line:
                break
        victim = children(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert said.count("its worker died (SIGKILL)") <= 1  # none where it was idle
    assert small_factorial.digests(tmp_path) == small_factorial.digests(whole)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_says_how_to_go_on_and_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    with under_way(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "jobs done" in line:
                break
        time.sleep(2)
        process.send_signal(number)
        said, _ = process.communicate(timeout=90)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    with locks.held(tmp_path, "reproduce", name=LOCK):  # which the workers share
        pass


def test_a_second_one_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locks.held(tmp_path, "reproduce", name=LOCK):
        status, said = finish(tmp_path)
    assert status == 2
    assert said.splitlines() == [
        f"ensemble-bench: {tmp_path}: another reproduce is at work there: wait for it, or choose another --out"
    ]


def test_called_again_it_keeps_everything(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    digests = small_factorial.digests(whole)
    status, said = finish(whole)
    assert status == 0, said
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before
    assert small_factorial.digests(whole) == digests


def test_a_failed_job_is_named_and_the_others_go_on(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / small_factorial.run_name("ensemble2adv", 0)
    run.mkdir(parents=True)
    (run / "curves.csv").write_text("not a run")
    status, said = finish(tmp_path)
    assert status == 1
    assert f"failed: train {run.name}: {run} exists and is not a run that can be continued" in said
    assert f"skipped: quick {run.name}: needs train {run.name}" in said
    assert "2 of 9 jobs failed or were skipped" in said
    assert len(list(tmp_path.rglob("record.json"))) == 3


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "none"
    status, said = finish(out, "--dry-run")
    assert status == 0, said
    rows = [line.split() for line in said.splitlines()]
    # Three networks and what joins two of them take 12 steps each but for the last.
    assert ["train", "5", "0", "48", "0"] in [row[:5] for row in rows]
    assert any(row[:4] == ["evaluate", "quick", "3", "0"] for row in rows)
    assert not out.exists()
