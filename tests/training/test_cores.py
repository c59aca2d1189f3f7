"""Idle cores, from what the kernel would say."""

import pytest
import torch

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.training import hardware
from ensemble_bench.training.cores import SECONDS, idle_cores


def stat(*cores: tuple[int, int]) -> str:
    """/proc/stat after so many (busy, idle) ticks of each core."""
    lines = ["cpu  1 2 3 4 5 6 7 8 9 10"]
    # A core that waits for a disk computes nothing: half of the idle ticks are such; and guests' ticks count as user's.
    lines += [
        f"cpu{i} {busy} 0 0 {idle - idle // 2} {idle // 2} 0 0 0 {busy} 0" for i, (busy, idle) in enumerate(cores)
    ]
    return "\n".join([*lines, "intr 5 0 0", "ctxt 17"])


def count(before: str, after: str, allowed: range) -> int:
    """Idle cores between two readings."""
    texts, waited = iter([before, after]), []
    found = idle_cores(allowed=allowed, read=lambda: next(texts), wait=waited.append)
    assert waited == [SECONDS]
    return found


def test_cores_that_others_use_are_not_counted() -> None:
    before = stat((100, 900), (500, 500), (0, 1000), (7, 70))
    after = stat((100, 930), (530, 500), (3, 1027), (22, 85))
    assert count(before, after, range(4)) == 2
    assert count(before, after, range(1, 4)) == 1


def test_there_is_always_one() -> None:
    assert count(stat((0, 0), (0, 0)), stat((30, 0), (30, 0)), range(2)) == 1
    assert count(stat((0, 0)), stat((0, 0)), range(1)) == 1


@pytest.mark.parametrize("text", ["", "no such thing", "cpu0 1 2 three 4"])
def test_without_the_kernels_counters_all_cores_are_taken(text: str) -> None:
    assert idle_cores(allowed=range(6), read=lambda: text, wait=lambda _: None) == 6

    def missing() -> str:
        raise FileNotFoundError("/proc/stat")

    assert idle_cores(allowed=range(6), read=missing, wait=lambda _: None) == 6


def test_no_more_threads_than_pytorch_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for idle, threads in ((2, 2), (4, 4), (64, 4)):
        monkeypatch.setattr(hardware, "idle_cores", lambda idle=idle: idle)
        assert hardware.default_threads() == threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(hardware, "idle_cores", lambda: pytest.fail("measured for nothing"))
    assert hardware.default_threads() == 1


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def failing() -> None:
        with hardware.computing_on(before + 1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    with hardware.computing_on(None):
        assert torch.get_num_threads() == before
    with pytest.raises(InvalidValueError, match="threads is 0"), hardware.computing_on(0):
        pytest.fail("entered")
