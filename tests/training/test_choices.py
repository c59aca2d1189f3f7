"""Recipes, presets, schedules, hardware: the tables, and what they refuse."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ensemble_bench import registry
from ensemble_bench.data import DataSource
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.models.build import build
from ensemble_bench.models.cost import parameters
from ensemble_bench.registry import RECIPES, Recipe
from ensemble_bench.training import plan as plans
from ensemble_bench.training.hardware import gpus_of, resolve_device, resolve_precision
from ensemble_bench.training.objectives import OBJECTIVES
from ensemble_bench.training.plan import TrainingPlan, differences
from ensemble_bench.training.presets import PRESETS
from ensemble_bench.training.schedule import cyclic, staircase

CPU = torch.device("cpu")


def _plan(source: DataSource, recipe: str, **choices: object) -> TrainingPlan:
    wanted = {"preset": "tiny", "seed": 0, "device": CPU} | choices
    return plans.resolve(RECIPES[recipe], source, **wanted)  # type: ignore[arg-type]


def test_tables_hold_exactly_the_registered_names() -> None:
    assert set(PRESETS) == set(registry.PRESETS)
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert set(OBJECTIVES) == set(registry.OBJECTIVES)
    # Other data sets are trained like one of these.
    assert all(set(preset.settings) == {"digits", "cifar10"} for preset in PRESETS.values())


def test_recipes_and_presets_import_no_torch() -> None:
    code = "import sys, ensemble_bench.registry, ensemble_bench.training.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_paper_preset_is_the_papers() -> None:
    paper = PRESETS["paper"].on("cifar10")
    network = paper.network
    assert (network.backbone, network.depth, network.width) == ("wrn", 28, 10)
    assert (paper.steps, paper.batch_size, paper.learning_rate, paper.momentum) == (500_000, 128, 0.1, 0.9)
    assert (paper.train_attack, paper.schedule, paper.precision) == ("ifgsm7", "staircase", "float32")


def test_staircase_drops_where_the_paper_does() -> None:
    rates = {step: 0.1 * staircase(step, 500_000) for step in (0, 29_999, 30_000, 60_000, 90_000, 499_999)}
    expected = [0.1, 0.1, 0.02, 0.004, 0.0008, 0.0008]
    assert list(rates.values()) == pytest.approx(expected)


def test_cyclic_rises_and_falls_and_is_never_zero() -> None:
    rates = [cyclic(step, 1000) for step in range(1000)]
    peak = rates.index(max(rates))
    assert peak in (399, 400)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0
    assert sum(rates) / 1000 == pytest.approx(0.5, abs=1e-3)  # the area of the triangle
    assert cyclic(0, 1) > 0


@pytest.mark.parametrize(("recipe", "times"), [("doubleadv", 2), ("quadadv", 4)])
@pytest.mark.parametrize("match", ["params", "paper"])
def test_widened_networks_cost_what_they_stand_for(digits: DataSource, recipe: str, times: int, match: str) -> None:
    single, wide = (_plan(digits, r, match=match).architecture for r in ("singleadv", recipe))
    ratio = parameters(build(wide)) / parameters(build(single))
    assert wide.members == 1
    if match == "params":
        assert ratio == pytest.approx(times, rel=0.01)
    else:  # the paper's widths: 1.5 and 2 times
        assert wide.width / single.width == {2: 1.5, 4: 2.0}[times]
        assert ratio > times * 0.9


def test_architecture_follows_the_recipe(digits: DataSource) -> None:
    assert _plan(digits, "ensemble4adv").architecture.members == 4
    assert _plan(digits, "gated2adv").architecture.gated
    assert _plan(digits, "singleadv").match is None
    assert _plan(digits, "doubleadv", match="flops").match == "flops"
    assert _plan(digits, "singleadv").threat.eps == digits.default_eps
    assert _plan(digits, "singleadv", eps=0.1).threat.eps == 0.1


def test_max_steps_only_shortens(digits: DataSource) -> None:
    whole = _plan(digits, "singleadv").steps
    assert _plan(digits, "singleadv", max_steps=10).steps == 10
    assert _plan(digits, "singleadv", max_steps=10**9).steps == whole


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"preset": "tinny"}, UnknownNameError, "did you mean tiny"),
        ({"match": "param"}, UnknownNameError, "did you mean params"),
        ({"objective": "mean"}, UnknownNameError, "member-mean"),
        ({"train_attack": "fgsm"}, UnknownNameError, "ifgsm7"),
        ({"train_attack": "pgd20"}, UnknownNameError, "ifgsm7"),
        ({"seed": -1}, InvalidValueError, "seed is -1"),
        ({"max_steps": 0}, InvalidValueError, "max_steps is 0"),
        ({"eps": 0.0}, InvalidValueError, "eps is 0.0"),
        ({"eps": 8.0}, InvalidValueError, "eps is 8.0"),
    ],
)
def test_refused_choices(digits: DataSource, choices: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _plan(digits, "ensemble2adv", **choices)


def test_a_recipe_names_its_objective_and_a_run_may_ask_for_another(digits: DataSource) -> None:
    def objective(recipe: Recipe, asked: str | None = None) -> str:
        return plans.resolve(recipe, digits, preset="tiny", seed=0, device=CPU, objective=asked).objective

    recipe = RECIPES["ensemble2adv"]
    assert objective(recipe) == "ensemble"
    assert objective(replace(recipe, objective="adp")) == "adp"
    assert objective(replace(recipe, objective="adp"), "member-mean") == "member-mean"
    with pytest.raises(UnknownNameError, match="member-mean"):
        objective(replace(recipe, objective="mean"))


def test_a_gate_cannot_learn_from_the_member_mean(digits: DataSource) -> None:
    with pytest.raises(InvalidValueError, match="gate"):
        _plan(digits, "gated2adv", objective="member-mean")


def test_settings_give_one_length() -> None:
    tiny = PRESETS["tiny"].on("digits")
    with pytest.raises(InvalidValueError, match="either"):
        replace(tiny, epochs=1)
    with pytest.raises(InvalidValueError, match="no settings for 'mnist'"):
        PRESETS["tiny"].on("mnist")


@pytest.mark.parametrize(
    ("visible", "device", "found"),
    [
        (None, None, ("0", "1", "2")),
        ("4,GPU-8932f937,6", "cuda", ("4", "GPU-8932f937", "6")),
        ("4,5,6,-1", None, ("4", "5", "6")),
        ("4,5,6", "cuda:1", ("4,5,6",)),  # a place for one, which counts among all
        (None, "cpu", ()),
    ],
)
def test_gpus_that_workers_share_out(
    visible: str | None, device: str | None, found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_of(device) == found


def test_precision_and_device() -> None:
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("auto", CPU) in ("float32", "bf16")
    with pytest.raises(UnknownNameError, match="float32"):
        resolve_precision("float16", CPU)
    assert resolve_device("cpu") == CPU
    with pytest.raises(InvalidValueError, match="gpu"):
        resolve_device("gpu")
    with pytest.raises(InvalidValueError, match="CUDA"):
        resolve_device("cuda:99")


def test_differences_are_named() -> None:
    there = {"seed": 0, "threat": {"norm": "linf", "eps": 0.1}, "device": "cpu"}
    assert differences({"seed": 0, "threat": {"norm": "linf", "eps": 0.1}}, there) == []
    found = differences({"seed": 1, "threat": {"norm": "linf", "eps": 0.2}}, there)
    assert found == ["seed is 0 there, 1 here", "threat.eps is 0.1 there, 0.2 here"]
