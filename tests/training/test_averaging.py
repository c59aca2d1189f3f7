"""The running average of the weights: its formula, its batch norm, and runs that keep one, stopped at any moment."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rounding
import torch
from small_models import images
from torch import nn

import ensemble_bench as eb
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import curves
from ensemble_bench.training import rundir
from ensemble_bench.training.averaging import estimate_batch_norm, running_average
from ensemble_bench.training.trainer import train

SETTINGS = {"steps": 12, "evaluate_every": 5, "evaluate_n": 20, "checkpoint_every": 3, "batch_size": 32, "average": 0.3}


def _norms(members: int = 2) -> Ensemble:
    """Members that shift the classes' means by a batch norm, whose statistics are their images' own."""
    networks = (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)) for _ in range(members))
    return Ensemble(networks)


def test_the_average_forgets_exponentially() -> None:
    model = Ensemble([nn.Linear(2, 2)])
    average = running_average(model, horizon=4)
    expected = None
    for step in range(5):
        with torch.no_grad():
            model.members[0].weight.fill_(step)
        average.update_parameters(model)
        expected = float(step) if expected is None else 0.75 * expected + 0.25 * step
    torch.testing.assert_close(average.module.members[0].weight, torch.full((2, 2), expected))


def test_batch_norm_gets_the_mean_of_its_batches() -> None:
    x, _ = images(48)
    model = _norms().train()
    model.members[0].eval()
    estimate_batch_norm(model, x.split(16))
    flat = [part.flatten(1) for part in x.split(16)]
    for member in model.members:
        torch.testing.assert_close(member[1].running_mean, torch.stack([part.mean(0) for part in flat]).mean(0))
        torch.testing.assert_close(member[1].running_var, torch.stack([part.var(0) for part in flat]).mean(0))
        assert member[1].momentum == 0.1
    assert (model.members[0].training, model.members[1].training) == (False, True)


def test_members_of_their_own_images_get_statistics_of_their_own() -> None:
    x, _ = images(16)
    model = _norms()
    estimate_batch_norm(model, [torch.stack([x, 1 - x])])
    for member, own in zip(model.members, (x, 1 - x), strict=True):
        torch.testing.assert_close(member[1].running_mean, own.flatten(1).mean(0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return train("ensemble2adv", settings=SETTINGS, out=tmp_path_factory.mktemp("whole") / "run")


def _same(a: Path, b: Path) -> None:
    for name in (rundir.AVERAGED, rundir.LAST):
        first, second = checkpoint.read_info(a / name), checkpoint.read_info(b / name)
        assert first.weights_hash == second.weights_hash
        assert first.meta == second.meta


def test_a_run_ends_with_the_average_and_the_last_weights(whole: Path) -> None:
    assert not (whole / rundir.BEST).exists()
    averaged, last = eb.load(whole / rundir.AVERAGED), eb.load(whole / rundir.LAST)
    assert eb.load(whole).info.weights_hash == averaged.info.weights_hash != last.info.weights_hash
    assert averaged.info.meta["checkpoint"] == "averaged"
    assert averaged.info.meta["step"] == last.info.meta["step"] == SETTINGS["steps"]
    assert averaged.info.meta["validation"].keys() == last.info.meta["validation"].keys()
    assert [row["step"] for row in curves.read(whole / "curves.csv")] == [5, 10, 12]


@pytest.mark.parametrize("step", [0, 4, 12])
def test_ctrl_c_and_resume_keep_the_average(whole: Path, tmp_path: Path, step: int) -> None:
    def stop(label: str, done: int, total: int, **fields: float | str) -> None:
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("ensemble2adv", settings=SETTINGS, out=tmp_path / "run", progress=stop)
    _same(whole, train("ensemble2adv", settings=SETTINGS, out=tmp_path / "run", resume=True))


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(int(sys.argv[3]))
from ensemble_bench.training import rundir, trainer
save = trainer.save_checkpoint
def die(run, name, *rest, **options):
    if name == rundir.LAST:
        os.kill(os.getpid(), signal.SIGKILL)
    save(run, name, *rest, **options)
trainer.save_checkpoint = die
trainer.train("ensemble2adv", settings=eval(sys.argv[2]), out=sys.argv[1])
"""


@pytest.mark.skipif(bool(rounding.SEED), reason="a process of its own rounds as this processor does")
def test_killed_between_its_two_checkpoints_a_run_is_finished_by_the_next(whole: Path, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "run"), repr(SETTINGS), str(torch.get_num_threads())]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not rundir.is_finished(tmp_path / "run")
    _same(whole, train("ensemble2adv", settings=SETTINGS, out=tmp_path / "run", resume=True))


def test_joined_runs_join_their_averages(tmp_path: Path) -> None:
    joined = train("separate2adv", seed=1, settings=SETTINGS, out=tmp_path / "joined")
    parts = [eb.load(next(tmp_path.glob(f"singleadv-*-s{seed}"))) for seed in (2, 3)]
    model, (x, _) = eb.load(joined), images(4)
    torch.testing.assert_close(model(x), ((parts[0](x).exp() + parts[1](x).exp()) / 2).log())
    assert (model.info.meta["seed"], model.info.meta["seeds"]) == (1, [2, 3])
