"""What a training is thought to take: its steps, every validation, and the average that it ends with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ensemble_bench import data, registry
from ensemble_bench.experiment import cost
from ensemble_bench.experiment.plan import Experiment, Job, experiment_of, jobs_of
from ensemble_bench.training import plan as plans
from ensemble_bench.training import trainer

CPU = torch.device("cpu")


def an_experiment(recipe: str) -> tuple[Experiment, list[Job]]:
    experiment = experiment_of(
        dataset="digits",
        data_name="digits",
        data_dir=None,
        preset="tiny",
        seeds=1,
        out=Path("runs/x"),
        test_images=360,
        eps=32 / 255,
        block=1024,
        recipes=(recipe,),
        device="cpu",
    )
    return experiment, [job for job in jobs_of(experiment) if job.call == "train"]


def test_a_training_is_its_steps_its_validations_and_its_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure", lambda *args, **kwargs: (2.0, 7.0))
    monkeypatch.setattr(cost, "seconds_a_pass", lambda *args, **kwargs: 1e-3)
    experiment, (job,) = an_experiment("baseline")
    (found,) = cost.costs_of(experiment, [job], frozenset()).values()
    validated = 144 * 1e-3 * 11  # 400 steps, one every 40, and one of the average
    passes = (found.seconds - 400 * 2.0 - 7.0) / validated
    # 1, 5, 7, 5 and 20 steps forward and backward, and a few passes around each.
    assert found.steps == 400
    assert 2 * (1 + 5 + 7 + 5 + 20) < passes < 2 * (1 + 5 + 7 + 5 + 20) + 1 + 5 * 5


def measured(monkeypatch: pytest.MonkeyPatch, times: list[float], **choices: Any) -> tuple[float, float]:
    source = data.open_source("digits")
    plan = plans.resolve(registry.resolve("recipe", "singleadv"), source, preset="tiny", seed=0, device=CPU, **choices)
    clock = iter(times)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    return trainer.measure(plan, source, CPU, steps=3, longest=20.0)


@pytest.mark.parametrize(
    ("times", "step"),
    [
        ([0, 9, 10, 12, 13, 100, 102], 1.0),  # the first step warms up
        ([0, 90, 100, 100, 102], 10.0),  # and is not let in where steps are slow, of which one is enough
    ],
)
def test_steps_are_measured_after_one_that_warms_up(
    times: list[float], step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert measured(monkeypatch, times, max_steps=1) == (step, trainer.BATCH_NORM_STEPS * 2.0)
    assert list(tmp_path.iterdir()) == []


def test_a_training_without_an_average_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, [0, 1, 2, 3, 4], settings={"average": 0.0}) == (1.0, 0.0)
