"""Objects where names go: images in memory, data sources, suites, attacks; and what is refused in one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ensemble_bench as eb
from ensemble_bench import attacks
from ensemble_bench.data import DataSource
from ensemble_bench.data.given import given_source
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError
from ensemble_bench.evaluation.diagnostics import diagnose
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.ensemble import Ensemble

DIGITS = Architecture(backbone="small_cnn", width=0.25, classes=10, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
QUIET: dict[str, Any] = {"suite": "ifgsm5", "n": 12}


@pytest.fixture(scope="module")
def model() -> Ensemble:
    return build(replace(DIGITS, members=2), seed=0).eval()


@pytest.fixture(scope="module")
def digits_xy() -> tuple[torch.Tensor, torch.Tensor]:
    return eb.data.load("digits", n=12)


def test_images_in_memory_are_scored_as_those_of_their_data_set(
    model: Ensemble, digits_xy: tuple[torch.Tensor, torch.Tensor]
) -> None:
    expected = eb.evaluate(model, **QUIET)
    found = eb.evaluate(model, data=digits_xy, **QUIET)
    assert found.clean_accuracy == expected.clean_accuracy
    assert found.per_attack == expected.per_attack
    assert found.samples["label"].tolist() == digits_xy[1].tolist()
    assert (found.record.dataset, found.record.data_name) == ("arrays", "arrays")
    assert found.record.data_hash.startswith("sha256:")
    assert found.record.data_hash != expected.record.data_hash  # which covers all splits


def test_arrays_tensors_and_bytes_are_the_same_images(
    model: Ensemble, digits_xy: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = digits_xy
    first = given_source((x, y), pair="test")
    for other in ((x.numpy(), y.numpy()), (x.double(), y.tolist()), [x[:, 0], y.int()]):
        assert given_source(other, pair="test").fingerprint == first.fingerprint
    assert torch.equal(first.split("test").batch(slice(None))[0], x)
    shades = (x * 15).round().to(torch.uint8)
    assert torch.equal(given_source((shades, y), pair="test").split("test").images, shades)


def test_what_is_trained_on_is_the_same_data_when_evaluated_on() -> None:
    x, y = eb.data.load("digits", n=40)
    parts = {"train": (x, y), "test": (x, y.sort().values)}  # class by class, and so put in a random order
    assert given_source(parts, pair="test").fingerprint == given_source(parts).fingerprint
    alone = given_source({"test": parts["test"]}, pair="test")
    assert torch.equal(alone.split("test").labels, y.sort().values)


def test_a_source_and_a_name(model: Ensemble, digits: DataSource, digits_xy: Any) -> None:
    assert eb.evaluate(model, data=digits, **QUIET).record.data_hash == digits.fingerprint
    assert eb.evaluate(model, data=digits_xy, dataset="my digits", **QUIET).record.data_name == "my-digits"
    assert eb.evaluate(model, data=digits_xy, dataset="digits", **QUIET).record.data_name == "digits-arrays"


def test_one_class_alone_can_be_scored(model: Ensemble) -> None:
    x, _ = eb.data.load("digits", n=3)
    assert eb.evaluate(model, data=(x, [0, 0, 0]), suite="ifgsm5").record.n == 3


def test_an_attack_and_a_suite_stand_where_their_names_do(model: Ensemble) -> None:
    expected = eb.evaluate(model, **QUIET)
    by_object = eb.evaluate(model, suite=attacks.get("ifgsm5"), n=12)
    assert by_object.per_attack == expected.per_attack
    mine = eb.Suite(name="mine", attacks=("ifgsm5", "margin5"), cascade=True, description="two")
    result = eb.evaluate(model, suite=mine, n=12)
    assert list(result.per_attack) == ["ifgsm5", "margin5"]
    assert result.record.suite == "mine"
    renamed = replace(attacks.get("ifgsm5"), name="ours")
    assert list(eb.evaluate(model, suite=renamed, n=12).per_attack) == ["ours"]


def test_diagnose_takes_what_evaluate_takes(model: Ensemble, digits_xy: Any) -> None:
    found = diagnose(model, data=digits_xy, attack=attacks.get("margin5"), n=12)
    assert (found.data_name, found.attack, found.n) == ("arrays", "margin5", 12)


def test_training_on_arrays(tmp_path: Path) -> None:
    x, y = eb.data.load("digits", n=300)
    told: list[str] = []

    def progress(label: str, done: int, total: int, **fields: Any) -> None:
        told.append(str(fields.get("status", "")))

    choices: dict[str, Any] = {"max_steps": 2, "threads": 1, "runs": tmp_path}
    run = eb.train("baseline", data=(x, y), progress=progress, **choices)
    assert run.name == "baseline-arrays-tiny-steps-2-s0"
    assert told.count("tiny has no settings for arrays: those of digits are used") == 1
    parts = {"train": (x[:200], y[:200]), "validation": (x[200:250], y[200:250]), "test": (x[250:], y[250:])}
    named = eb.train("baseline", data=parts, dataset="halves", **choices)
    assert named.name == "baseline-halves-tiny-steps-2-s0"
    assert len(given_source(parts).split("validation")) == 50
    result = eb.evaluate(eb.load(named), data=parts, suite="ifgsm5")
    assert result.record.n == 50


X, Y = np.zeros((4, 8, 8), dtype=np.uint8), np.array([0, 1, 2, 3])
BAD: dict[str, tuple[Callable[[Ensemble], object], str]] = {
    "data a name": (lambda m: eb.evaluate(m, data="digits"), "data is 'digits': expected a DataSource.*dataset"),
    "data a number": (lambda m: eb.evaluate(m, data=3), "data is a int: expected a DataSource, images and labels"),
    "data three": (lambda m: eb.evaluate(m, data=(X, Y, Y)), "data is a tuple: expected a DataSource"),
    "data empty": (lambda m: eb.evaluate(m, data={}), "data is a dict: expected a DataSource"),
    "split": (lambda m: eb.evaluate(m, data={"tset": (X, Y)}), "data has a split 'tset': expected train"),
    "all beside": (
        lambda m: eb.evaluate(m, data={"all": (X, Y), "test": (X, Y)}),
        "data has 'all' beside splits: expected train, validation, test, or 'all' alone",
    ),
    "no pair": (lambda m: eb.evaluate(m, data={"test": X}), r"data\['test'\] is a ndarray: expected images and labels"),
    "objects": (lambda m: eb.evaluate(m, data=([object()] * 4, Y)), r"images in data, test have shape \(4,\)"),
    "ragged": (lambda m: eb.evaluate(m, data=([[1], [1, 2]], Y)), "cannot make an array of a list"),
    "no images": (lambda m: eb.evaluate(m, data=(X[:0], Y[:0])), r"have shape \(0, 8, 8, 1\)"),
    "labels": (lambda m: eb.evaluate(m, data=(X, Y / 2)), "labels in data, test are float64 .*whole number"),
    "few labels": (lambda m: eb.evaluate(m, data=(X, Y[:2])), "4 images but 2 labels"),
    "classes": (lambda m: eb.evaluate(m, data=(X, Y + 9), suite="ifgsm5"), "tells 10 classes apart, arrays has labels"),
    "black box": (
        lambda m: eb.evaluate(m, data=(X, Y)),
        "black-box attack trains networks, but there are no train",
    ),
    "suite": (lambda m: eb.evaluate(m, suite=3), "suite is a int: expected a name, a Suite or an Attack"),  # type: ignore[arg-type]
    "suite unknown": (
        lambda m: eb.evaluate(m, suite=eb.Suite(name="s", attacks=("nothing5",), description="")),
        "unknown attack 'nothing5'",
    ),
    "suite text": (
        lambda m: eb.evaluate(m, suite=eb.Suite(name="s", attacks="pgd5", description="")),  # type: ignore[arg-type]
        "has attacks 'pgd5': expected a tuple",
    ),
    "attack clean": (
        lambda m: eb.evaluate(m, suite=replace(attacks.get("ifgsm5"), name="clean")),
        "an attack named 'clean': tables have such a column",
    ),
    "train": (lambda m: eb.train("baseline", data=3), "data is a int: expected a DataSource"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_such_object_is_one_line(
    case: str, model: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, message = BAD[case]
    with pytest.raises(EnsembleBenchError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_rounding_of_floats_is_told() -> None:
    x = np.random.default_rng(0).random((20, 8, 8))
    with pytest.warns(UserWarning, match="rounded to the nearest of 256 shades"):
        source = given_source((x, np.arange(20) % 2), pair="test")
    assert np.abs(source.split("test").batch(slice(None))[0][:, 0].numpy() - x).max() <= 0.5 / 255 + 1e-6


def test_images_of_another_size_than_a_model_takes(digits_xy: Any) -> None:
    with pytest.raises(InvalidValueError, match="the model fails on images of shape"):
        eb.evaluate(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 10)), data=digits_xy)
