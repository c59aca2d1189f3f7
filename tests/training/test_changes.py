"""What a caller changes of a preset: values by their types, one line for a mistake, a name for the folder."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from ensemble_bench.data import DataSource
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.registry import RECIPES
from ensemble_bench.training import plan as plans
from ensemble_bench.training.changes import fields, replaced, slug
from ensemble_bench.training.plan import TrainingPlan
from ensemble_bench.training.presets import PRESETS
from ensemble_bench.training.rundir import default_out

TINY = PRESETS["tiny"].on("digits")
WRN = PRESETS["tiny"].on("cifar10")


def _plan(source: DataSource, recipe: str, **choices: object) -> TrainingPlan:
    wanted = {"preset": "tiny", "seed": 0, "device": torch.device("cpu")} | choices
    return plans.resolve(RECIPES[recipe], source, **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("learning_rate", "0.1", 0.1),
        ("learning_rate", "1e-3", 0.001),
        ("momentum", 0, 0.0),
        ("batch_size", "64", 64),
        ("flip", "True", True),
        ("flip", True, True),
        ("crop", 4, 4),
        ("schedule", "staircase", "staircase"),
        ("train_attack", "ifgsm3", "ifgsm3"),
        ("network.width", "2", 2.0),
    ],
)
def test_a_value_is_read_by_the_type_of_its_field(name: str, text: object, value: object) -> None:
    settings, changed = replaced(TINY, {name: text})
    assert changed == {name: value}
    assert type(changed[name]) is type(value)
    where = settings.network if name.startswith("network.") else settings
    assert getattr(where, name.removeprefix("network.")) == value
    assert replaced(settings, {name: text}) == (settings, {})


def test_several_values_change_those_and_nothing_else() -> None:
    settings, changed = replaced(WRN, {"network.depth": "16", "network.width": "2", "epochs": "30"})
    assert settings == replace(WRN, network=replace(WRN.network, depth=16, width=2.0), epochs=30.0)
    assert changed == {"network.depth": 16, "network.width": 2.0, "epochs": 30.0}
    assert replaced(WRN, {"network.depth": "none", "network.backbone": "small_cnn"})[0].network.depth is None


def test_steps_and_epochs_replace_each_other() -> None:
    assert (TINY.steps, TINY.epochs) == (400, None)
    settings, changed = replaced(TINY, {"epochs": 2})
    assert (settings.steps, settings.epochs, changed) == (None, 2.0, {"epochs": 2.0})
    settings, changed = replaced(settings, {"steps": "400"})
    assert (settings, changed) == (TINY, {"steps": 400})
    with pytest.raises(InvalidValueError, match="choose one"):
        replaced(TINY, {"epochs": 2, "steps": 3})


def test_every_setting_of_a_training_can_be_named() -> None:
    names = set(TINY.as_dict()) - {"network"}
    assert set(fields()) == names | {"network.backbone", "network.depth", "network.width"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"learning_rte": 0.1}, ["unknown setting 'learning_rte'", "did you mean learning_rate", "network.width"]),
        ({"surrogate_epochs": 3}, ["unknown setting 'surrogate_epochs'", "choose from"]),
        ({"network": "wrn"}, ["unknown setting 'network'", "network.backbone"]),
        ({"learning_rate": "fast"}, ["learning_rate is 'fast'", "a number"]),
        ({"learning_rate": "nan"}, ["learning_rate is nan", "more than 0"]),
        ({"learning_rate": 0}, ["learning_rate is 0.0", "more than 0"]),
        ({"weight_decay": -1}, ["weight_decay is -1.0", "0 or more"]),
        ({"momentum": 1}, ["momentum is 1.0", "less than 1"]),
        ({"batch_size": "1.5"}, ["batch_size is '1.5'", "a whole number"]),
        ({"batch_size": 1.5}, ["batch_size is 1.5", "a whole number"]),
        ({"batch_size": True}, ["batch_size is True", "a whole number"]),
        ({"flip": "perhaps"}, ["flip is 'perhaps'", "true or false"]),
        ({"schedule": "cosine"}, ["unknown schedule 'cosine'", "cyclic, staircase"]),
        ({"train_attack": "pgd7"}, ["unknown training attack 'pgd7'", "nfgsm"]),
        ({"attack_start": "there"}, ["unknown attack_start 'there'", "gaussian"]),
        ({"precision": "fp16"}, ["unknown precision 'fp16'", "bf16"]),
        ({"network.backbone": "resnet"}, ["unknown backbone 'resnet'", "wrn"]),
        ({"epochs": "none"}, ["epochs is 'none'", "the other one of steps and epochs"]),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_that_says_what_is_valid(asked: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        replaced(TINY, asked)
    assert "\n" not in str(caught.value)
    assert all(text in str(caught.value) for text in expected), caught.value


def test_a_plan_lists_what_the_caller_changed(digits: DataSource) -> None:
    plan = _plan(
        digits,
        "ensemble2adv",
        objective="adp",
        train_attack="ifgsm7",
        eps=4 / 255,
        max_steps=200,
        settings={"learning_rate": 0.1},
    )
    expected = {"objective": "adp", "train_attack": "ifgsm7", "eps": 4 / 255, "steps": 200, "learning_rate": 0.1}
    assert plan.as_dict()["changes"] == plan.changes == expected
    assert plan.settings.learning_rate == 0.1
    assert _plan(digits, "doubleadv", match="flops").changes == {"match": "flops"}


def test_what_equals_the_preset_or_does_not_matter_is_no_change(digits: DataSource) -> None:
    own = PRESETS["tiny"].on("digits", "ensemble2adv").learning_rate
    same = {
        "objective": "ensemble",
        "train_attack": TINY.train_attack,
        "eps": digits.default_eps,
        "max_steps": 400,
        "settings": {"learning_rate": own, "steps": 400},
    }
    assert _plan(digits, "ensemble2adv", **same, match="flops").as_dict() == _plan(digits, "ensemble2adv").as_dict()
    assert _plan(digits, "ensemble2adv").changes == {}
    assert _plan(digits, "doubleadv", match="params").changes == {}


def test_a_length_of_less_than_one_step_is_refused(digits: DataSource) -> None:
    n = len(digits.split("train"))
    with pytest.raises(InvalidValueError, match=f"batch_size is {n + 1}: there are {n} training images"):
        _plan(digits, "baseline", settings={"batch_size": n + 1})
    with pytest.raises(InvalidValueError, match="epochs is 1e-05: less than a step"):
        _plan(digits, "baseline", settings={"epochs": 1e-5})
    with pytest.raises(InvalidValueError, match="give it once"):
        _plan(digits, "singleadv", train_attack="nfgsm", settings={"train_attack": "ifgsm7"})


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, ""),
        ({"objective": "adp"}, "objective-adp"),
        ({"learning_rate": 0.1, "epochs": 30.0}, "learning_rate-0.1-epochs-30"),
        ({"eps": 4 / 255}, "eps-4of255"),
        ({"eps": 0.05}, "eps-0.05"),
        ({"flip": True, "network.depth": None}, "flip-true-network.depth-none"),
    ],
)
def test_the_folder_of_a_changed_run_names_the_changes(changes: dict[str, Any], name: str) -> None:
    assert slug(changes) == name
    folder = default_out("singleadv", "digits", "tiny", 3, changes, runs="there")
    assert folder.as_posix() == f"there/singleadv-digits-tiny-{name}{'-' if name else ''}s3"


def test_names_of_folders_are_short_distinct_and_safe_everywhere() -> None:
    many = dict.fromkeys(fields(), "a/b:c*d e")
    assert len(slug(many)) == 80
    assert len(default_out("separate4adv", "cifar10-jpeg", "modern", 10, many).name) == 80
    assert len(slug(many, 12)) == 12
    assert slug(many) != slug(many | {"train_attack": "other"})
    for changes in (many, {"network.backbone": "a/b:c*d é"}):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", slug(changes))
