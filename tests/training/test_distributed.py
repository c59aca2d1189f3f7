"""Two processes that share a training against one: the same weights and curves, and they stop and fail together."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import rounding
import several_processes
import torch
from several_processes import STOPPED, TRAININGS
from torch import nn

from ensemble_bench.cli import run
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import checkpoint
from ensemble_bench.records import curves
from ensemble_bench.training import batch_norm, distributed, launched, rundir

pytestmark = pytest.mark.skipif(bool(rounding.SEED), reason="a process of its own rounds as this processor does")
COUNT = 2
# An order above what float64 shows here; a mistake in a mean, a noise or a statistic shows at 1e-4 and more.
TOLERANCE = 1e-12


def _started(rank: int, port: int = 29500) -> dict[str, str]:
    """What a launcher puts into the environment."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(COUNT),
        "LOCAL_WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What two processes on this machine left behind, joined by gloo."""
    pytest.importorskip("accelerate", reason="the extra [cluster] is not installed")
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, several_processes.__file__, str(out)]
    running = [
        subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | _started(rank, port))
        for rank in range(COUNT)
    ]
    try:
        assert [process.wait(timeout=600) for process in running] == [0] * COUNT
    finally:
        for process in running:
            process.kill()
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings in this process."""
    out = tmp_path_factory.mktemp("one")
    for recipe in TRAININGS:
        several_processes.train(recipe, out)
    return out


def _same(a: Path, b: Path) -> None:
    """Both runs hold the same curves and, as far as float32 tells, the same weights."""
    rows, others = curves.read(a / rundir.CURVES), curves.read(b / rundir.CURVES)
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        assert other | {"seconds": 0} == pytest.approx(row | {"seconds": 0}, rel=TOLERANCE)
    names = sorted(path.name for path in a.glob("*.safetensors"))
    assert names == sorted(path.name for path in b.glob("*.safetensors"))
    for name in names:
        torch.testing.assert_close(_weights(a / name), _weights(b / name), rtol=1e-6, atol=1e-7)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path).state_dict()


@pytest.mark.parametrize("recipe", [recipe for recipe in TRAININGS if recipe != "separate2adv"])
def test_two_processes_equal_one(one: Path, two: Path, recipe: str) -> None:
    _same(one / recipe, two / recipe)
    made = [json.loads((folder / recipe / rundir.RUN).read_text())["processes"] for folder in (one, two)]
    assert made == [1, COUNT]


def test_separate_networks_are_trained_one_after_the_other_and_joined(one: Path, two: Path) -> None:
    members = sorted(path.name for path in one.glob("singleadv-*"))
    assert len(members) == 2
    for member in members:
        _same(one / member, two / member)
    joined = [_weights(folder / "separate2adv" / rundir.LAST) for folder in (one, two)]
    torch.testing.assert_close(*joined, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stopped", ["signal", "validating"])
def test_interrupted_and_continued_they_end_with_the_same_weights(one: Path, two: Path, stopped: str) -> None:
    _same(one / STOPPED, two / stopped / STOPPED)


@pytest.fixture(scope="module")
def said(two: Path) -> list[dict[str, Any]]:
    """What was raised in each process, by what was tried, and how many threads it had before and after it left."""
    return [json.loads((two / f"{rank}.json").read_text()) for rank in range(COUNT)]


@pytest.mark.parametrize(
    ("what", "messages"),
    [
        # Process 1 got SIGTERM in the fifth step, which both then finish.
        ("signal", ["Terminated: ", "Terminated: "]),
        ("reached", ["5", "5"]),
        (
            "unfinished",
            ["InvalidValueError: * holds an unfinished run of this: pass --resume *", "OtherProcessError: *"],
        ),
        ("validating", ["KeyboardInterrupt: ", "KeyboardInterrupt: "]),
        ("callback", ["KeyboardInterrupt: ", "KeyboardInterrupt: "]),
        ("batch", 2 * ["InvalidValueError: batch_size is 33: 2 processes share a batch of a multiple of 2"]),
        ("data", ["OtherProcessError: process 1: no images here", "DataError: no images here"]),
        (
            "seed",
            [
                "OtherProcessError: process 1: processes disagree: seed is 0 in process 0, 1 here",
                "InvalidValueError: processes disagree: seed is 0 in process 0, 1 here",
            ],
        ),
        ("attack", ["AttackError: not finite", "OtherProcessError: process 0: not finite"]),
        ("diverged", 2 * ["AttackError: training diverged: the loss of step *"]),
    ],
)
def test_they_stop_and_fail_together(said: list[dict[str, Any]], what: str, messages: list[str]) -> None:
    for process, pattern in zip(said, messages, strict=True):
        assert fnmatch(process[what], pattern), process[what]


def test_the_threads_of_gloo_end_before_python_does(said: list[dict[str, Any]]) -> None:
    """One that lets go of a tensor while Python ends aborts the process, though all its work is done."""
    if not said[0]["threads"][0]:
        pytest.skip("this system does not tell the threads of a process")
    for process in said:
        before, after = process["threads"]
        assert before - after >= 2  # gloo works in two


def test_what_is_refused_leaves_no_folder(two: Path) -> None:
    assert not (two / "none").exists()


def test_accelerate_launch_trains_and_reports_once(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the extra [cluster] is not installed")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(COUNT)]
    options = ["--main_process_port", "0", "--num_machines", "1", "--mixed_precision", "bf16"]
    train = ["train", "baseline", "singleadv", "--device", "cpu", "--runs", str(tmp_path), "--max-steps", "2"]
    done = subprocess.run(
        [*launcher, *options, "-m", "ensemble_bench", *train],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    runs = [tmp_path / f"{recipe}-digits-tiny-steps-2-s0" for recipe in ("baseline", "singleadv")]
    assert done.stdout.splitlines()[:2] == list(map(str, runs))
    assert done.stdout.count("score them with") == 1
    assert done.stderr.count("done, 2 in") == 2
    for folder in runs:
        made = json.loads((folder / rundir.RUN).read_text())
        # Precision is the preset's, not accelerate's.
        assert (made["processes"], made["precision"], made["device"]) == (COUNT, "float32", "cpu")
        assert rundir.is_finished(folder)


def _pretend(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    for name, value in _started(rank).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("rank", range(COUNT))
def test_other_commands_are_refused_in_one_line(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _pretend(monkeypatch, rank)
    assert run(["evaluate", "--suite", "quick"]) == 2
    line = "ensemble-bench: 2 processes were started, but only train can share its work: start one\n"
    assert capsys.readouterr() == ("", "" if rank else line)


def test_without_accelerate_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, 1)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        InvalidValueError, match=r"2 processes .* need accelerate: pip install 'ensemble-bench\[cluster"
    ):
        distributed.join("cpu")


def test_several_processes_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    pytest.importorskip("accelerate", reason="the extra [cluster] is not installed")
    with pytest.raises(InvalidValueError, match="device is 'cuda:0': 2 processes take a GPU each"):
        distributed.join("cuda:0")
    with pytest.raises(InvalidValueError, match="2 processes were started on this machine, which has 1 CUDA devices"):
        distributed.join(None)


def test_a_process_by_itself_is_no_launched_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _started(0):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as other tools leave it behind
    assert (launched.count(), launched.rank()) == (1, 0)
    alone = distributed.join("cpu")
    assert (alone.rank, alone.count, alone.part) == (0, 1, (0, 1))


def test_shared_batch_norm_keeps_names_parameters_and_eval_mode() -> None:
    """On a processor; its train mode, which talks to other processes, is part of the trainings above."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(nn.BatchNorm2d(3, momentum=0.3, eps=1e-3)))
    model(torch.rand(8, 1, 4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters, x = list(model.parameters()), torch.rand(4, 1, 4, 4)
    expected = model.eval()(x)
    batch_norm.share(model, torch.device("cpu"))
    assert isinstance(model[1][0], batch_norm.SharedBatchNorm)
    assert (model[1][0].momentum, model[1][0].eps, model[1][0].training) == (0.3, 1e-3, False)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert list(model.state_dict()) == list(before)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(model(x), expected)
