"""RobustBench's own benchmark() on our ensembles and images; nothing of it stays behind."""

import logging
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_models import Linear, perceptron, trained
from torch import Tensor, nn
from torch.nn import functional as F

import ensemble_bench as eb
from ensemble_bench.adapters import robustbench
from ensemble_bench.adapters.robustbench import benchmark, import_robustbench
from ensemble_bench.data import DataSource
from ensemble_bench.data.given import given_source
from ensemble_bench.data.layouts import CLASSES
from ensemble_bench.errors import DataError, InvalidValueError
from ensemble_bench.records import worst_case
from ensemble_bench.records.statistics import mcnemar
from ensemble_bench.threat import ThreatModel

Predictions = list[NDArray[np.bool_]]


@pytest.fixture
def right(monkeypatch: pytest.MonkeyPatch) -> Predictions:
    """Which images are right whenever RobustBench asks for an accuracy: on clean ones, then on adversarial ones."""
    theirs, found = import_robustbench().eval, Predictions()
    count = theirs.clean_accuracy

    def spy(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Any:
        with torch.no_grad():
            found.append((model(x).argmax(dim=1) == y).numpy())
        return count(model, x, y, **settings)

    monkeypatch.setattr(theirs, "clean_accuracy", spy)
    return found


def agree(model: nn.Module, right: Predictions, *, n: int, dataset: str, threat: ThreatModel, data_dir: Any) -> None:
    """RobustBench and our suite find the same robust accuracy, in neither direction off by more than chance."""
    theirs = benchmark(model, n=n, dataset=dataset, threat=threat, data_dir=data_dir)
    ours = eb.evaluate(model, n=n, dataset=dataset, threat=threat, data_dir=data_dir, suite="autoattack")
    left = worst_case(ours.samples)
    assert theirs.clean_accuracy == pytest.approx(ours.clean_accuracy) == right[0].mean()
    assert theirs.robust_accuracy == pytest.approx(right[1].mean())
    assert ours.robust_accuracy == pytest.approx(left.mean())
    assert 0.1 < theirs.robust_accuracy < theirs.clean_accuracy - 0.1
    test = mcnemar(right[1], left)
    assert test.p_value > 0.05
    assert test.only_a + test.only_b <= 0.02 * n


def test_it_agrees_with_our_suite_autoattack(right: Predictions) -> None:
    """The whole of AutoAttack, with its published settings, twice."""
    model = eb.Ensemble([perceptron(0), perceptron(1)]).eval()
    agree(model, right, n=60, dataset="digits", threat=ThreatModel(eps=0.16), data_dir=None)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """All that RobustBench could leave behind is as before."""

    def state() -> tuple[Any, ...]:
        theirs, log = sys.modules["robustbench.eval"], logging.getLogger("auto-attack")
        modules = [(m, m.training) for m in model.modules()]
        parameters = [(p, p.requires_grad, p.grad, p.device) for p in model.parameters()]
        generators = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())
        logs = [(one.level, one.disabled, list(one.handlers)) for one in (log, logging.getLogger())]
        replaced = (theirs.load_clean_dataset, theirs.AutoAttack)  # type: ignore[attr-defined]
        process = (set(sys.modules), sys.gettrace(), sys.stdout, list(warnings.filters), torch.is_grad_enabled())
        return modules, parameters, generators, logs, replaced, process

    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = state()
    try:
        yield
    finally:
        for old, new in zip(before, state(), strict=True):
            assert old == new
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def tracer(*_: Any) -> None:
    return None


@pytest.mark.parametrize("fails", [False, True])
def test_it_leaves_no_trace(fails: bool) -> None:
    model = trained(members=2)
    model.members[0].eval()
    F.cross_entropy(model(torch.rand(4, 1, 8, 8)), torch.arange(4)).backward()  # gradients that must stay
    model.train()
    benchmark(model, n=2, dataset="digits", threat=ThreatModel(eps=0.5))  # whatever else is imported on the first call
    hook = model.register_forward_pre_hook(lambda *_: 1 / 0) if fails else None
    old = sys.gettrace()
    try:
        sys.settrace(tracer)
        with untouched(model):
            if fails:
                with pytest.raises(ZeroDivisionError):
                    benchmark(model, n=4, dataset="digits")
            else:
                benchmark(model, n=4, dataset="digits", threat=ThreatModel(eps=0.5))
    finally:
        sys.settrace(old)
        if hook is not None:
            hook.remove()


def test_the_seed_is_given_and_stdout_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = []

    def evaluate(self: Any, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        seeds.append((self.seed, self.norm, self.epsilon, self.version))
        return x

    monkeypatch.setattr(import_robustbench().eval.AutoAttack, "run_standard_evaluation", evaluate)
    result = benchmark(trained(), n=5, dataset="digits", seed=7, threat=ThreatModel(norm="l2", eps=0.25))
    assert seeds == [(7, "L2", 0.25, "standard")]
    clean, robust = result
    assert (clean, robust) == (result.clean_accuracy, result.robust_accuracy) == (1.0, 1.0)
    assert (result.data_name, result.n) == ("digits", 5)
    assert capsys.readouterr().out == ""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of CIFAR-10 as image files: nothing that RobustBench's own loader could read."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 10, 32, 32, 3), dtype=np.uint8)
    for split, images in zip(("train", "test"), pixels, strict=True):
        for row, (image, name) in enumerate(zip(images, CLASSES, strict=True)):
            path = tmp_path / "my-copy" / split / name / f"{row}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(image).save(path)
    return tmp_path / "my-copy"


def test_images_come_through_our_reader_and_keep_their_name(copy: Path, right: Predictions) -> None:
    weight = torch.randn(10, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))
    model = eb.Ensemble([Linear(weight, torch.zeros(10)), Linear(weight.roll(1, 1), torch.zeros(10))]).eval()
    x, y = eb.data.load("cifar10", data_dir=copy)
    with torch.no_grad():
        expected = model(x).argmax(dim=1) == y
    result = benchmark(model, data_dir=copy)
    assert (result.data_name, result.n) == ("my-copy", 10)
    assert right[0].tolist() == expected.tolist()
    assert (result.clean_accuracy, result.robust_accuracy) == (expected.double().mean(), 0.0)
    assert len(right) == 2
    assert sorted(path.name for path in copy.iterdir()) == ["test", "train"]  # nothing was downloaded there


@pytest.mark.parametrize("classes", [4, 6])
def test_fewer_classes_have_fewer_targets(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.arange(4)
    weight = torch.eye(classes, 64)
    x = weight[y].view(4, 1, 8, 8)  # a pixel for each class: what breaks them is half of it
    source = given_source({"test": (x, y)}, pair="test")
    monkeypatch.setattr("ensemble_bench.data.open_source", lambda *_: source)
    model = Linear(weight, torch.zeros(classes))
    assert benchmark(model, dataset="mine", threat=ThreatModel(eps=0.4)) == (1.0, 1.0)
    assert benchmark(model, dataset="mine", threat=ThreatModel(eps=0.6)) == (1.0, 0.0)
    with pytest.raises(InvalidValueError, match="the model has 3 classes: AutoAttack's targeted DLR loss needs 4"):
        benchmark(Linear(weight[:3], torch.zeros(3)), dataset="mine")


def test_values_that_cannot_be(copy: Path, digits: DataSource, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    monkeypatch.setattr("ensemble_bench.data.open_source", lambda *_: replace(digits, name="cifar10"))
    with pytest.raises(InvalidValueError, match="to_disk is True: model_name is missing"):
        benchmark(model, n=6, to_disk=True)
    monkeypatch.undo()
    with pytest.raises(
        InvalidValueError, match=r"'colour' is no setting of robustbench\.benchmark: choose from model_n"
    ):
        benchmark(model, n=6, colour="red")
    with pytest.raises(
        InvalidValueError, match="to_disk is True: RobustBench would file results on my-copy as cifar10"
    ):
        benchmark(model, data_dir=copy, to_disk=True, model_name="mine")
    with pytest.raises(InvalidValueError, match="n is 11: the test split of my-copy holds 10 images"):
        benchmark(model, data_dir=copy, n=11)
    with pytest.raises(InvalidValueError, match="batch_size"):
        benchmark(model, dataset="digits", batch_size=0)
    with pytest.raises(DataError, match="does not exist"):
        benchmark(model, data_dir=copy / "nowhere")


def test_a_robustbench_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "robustbench"
    package.mkdir()
    (package / "__init__.py").write_text("from . import utils\n")
    (package / "utils.py").write_text("")
    (package / "eval.py").write_text("import robustbench.utils\nrobustbench.utils.nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    with pytest.raises(InvalidValueError, match=r"AttributeError: .*'nothing'\): `ensemble-bench doctor` says why"):
        import_robustbench()
    assert set(sys.modules) == before


def test_the_alias_does_not_stay() -> None:
    import_robustbench()
    assert not {"autoattack", "autoattack.state"} & set(sys.modules)
    assert robustbench.NORMS == {"linf": "Linf", "l2": "L2"}
