"""The same jobs as Ray tasks: the same bytes, and a killed worker costs its task only. Skips without ray."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_factorial
from test_reproduce import finish, under_way

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.experiment.cluster import RayPool


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InvalidValueError, match=r"pip install 'ensemble-bench\[cluster\]'"):
        RayPool("local")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment on local processes, for those of Ray to compare with."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'ensemble-bench[cluster]'")
    out = tmp_path_factory.mktemp("whole")
    status, said = finish(out)
    assert status == 0, said
    return out


def descendants(pid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            child, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            yield child
            yield from descendants(child)


def at_work(pid: int) -> list[int]:
    """Ray's worker processes that do one of our tasks now."""
    found = []
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::_perform"):
            found.append(child)
    return found


@pytest.mark.slow
def test_ray_tasks_end_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    status, said = finish(tmp_path, "--ray", "local")
    assert status == 0, said
    assert small_factorial.digests(tmp_path) == small_factorial.digests(whole)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc")
def test_a_killed_ray_worker_costs_its_task_only(whole: Path, tmp_path: Path) -> None:
    with under_way(tmp_path, "--ray", "local") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "done: train" in line:
                break
        end, victims = time.monotonic() + 30, list[int]()
        while not victims and time.monotonic() < end:
            victims = at_work(process.pid)
        os.kill(victims[0], signal.SIGKILL)
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "failed: " not in said  # of ours; Ray says in a line of its own that it runs the task again
    assert small_factorial.digests(tmp_path) == small_factorial.digests(whole)


def test_an_address_where_no_cluster_is_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'ensemble-bench[cluster]'")
    status, said = finish(tmp_path, "--ray", "127.0.0.1:1")
    assert status == 2
    assert "ray is '127.0.0.1:1': no cluster answers there" in said.splitlines()[-1]
