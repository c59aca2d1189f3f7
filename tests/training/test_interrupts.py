"""SIGTERM stops a training as Ctrl-C does: no step is lost, and going on ends with the same weights."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest
import torch

import ensemble_bench as eb
from ensemble_bench.models import checkpoint
from ensemble_bench.records import curves
from ensemble_bench.training import interrupts
from ensemble_bench.training.trainer import train

STEPS = 12
SHORT = {"steps": STEPS, "evaluate_every": 5, "evaluate_n": 20, "checkpoint_every": 100, "batch_size": 32}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of ensemble2adv."""
    return train("ensemble2adv", out=tmp_path_factory.mktemp("whole") / "run", settings=SHORT)


def _same(a: Path, b: Path) -> None:
    """Both runs hold the same files and no resume point, the same weights bit for bit, and the same curves."""
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir())
    assert "resume.safetensors" not in names
    for name in (name for name in names if name.endswith(".safetensors")):
        first, second = checkpoint.read_info(a / name), checkpoint.read_info(b / name)
        assert (first.weights_hash, first.meta) == (second.weights_hash, second.meta)
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in curves.read(run / "curves.csv")] for run in (a, b)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sigterm_at_a_random_moment_loses_no_step(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The signal arrives while a network computes: in an attack, a step or an evaluation, one call of many."""
    at, calls, forward = random.Random(seed).randint(1, 120), 0, eb.Ensemble.forward
    steps: list[int] = []

    def killed(self: eb.Ensemble, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, x)

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        steps.append(done)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(eb.Ensemble, "forward", killed)
        with interrupts.terminable() as terminated, pytest.raises(interrupts.Terminated):
            train("ensemble2adv", out=tmp_path / "run", settings=SHORT, progress=progress)
    assert terminated()
    assert signal.getsignal(signal.SIGTERM) is before
    reached = steps[-1] if steps else 0  # the network may have been looked at, before the first step
    steps.clear()
    _same(whole, train("ensemble2adv", out=tmp_path / "run", settings=SHORT, resume=True, progress=progress))
    assert steps[0] in (reached, reached + 1)
    assert steps[-1] == STEPS


def test_sigterm_within_a_step_waits_for_its_end(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.SGD.step

    def killed(self: torch.optim.SGD) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", killed)
        with interrupts.terminable(), pytest.raises(interrupts.Terminated):
            train("ensemble2adv", out=tmp_path / "run", settings=SHORT)
    steps: list[int] = []

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        steps.append(done)

    run = train("ensemble2adv", out=tmp_path / "run", settings=SHORT, resume=True, progress=progress)
    assert steps[0] == 1
    _same(whole, run)


@pytest.mark.usefixtures("interruptible")
def test_both_signals_are_restored_whichever_came() -> None:
    before = signal.getsignal(signal.SIGINT)

    def both() -> None:
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    with interrupts.terminable():
        inside = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            both()
        assert signal.getsignal(signal.SIGTERM) is inside
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_sigterm_that_others_handle_stays_theirs() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with interrupts.terminable() as terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        assert not terminated()
    finally:
        signal.signal(signal.SIGTERM, before)
