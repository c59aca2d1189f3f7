"""Values of another kind than a parameter takes: every public function says so in one line, whatever the value."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import trained
from torch import nn

import ensemble_bench as eb
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError
from ensemble_bench.evaluation.runner import Result, evaluate_checkpoints
from ensemble_bench.kinds import takes


class Odd:
    """What no parameter takes."""


# None of these is a text, a number, a path or a function of images.
VALUES: dict[str, Callable[[], Any]] = {
    "object": Odd,
    "class": lambda: Odd,
    "bytes": lambda: b"x",
    "complex": lambda: 1j,
    "set": lambda: {1},
    "dict": lambda: {1: 2},
    "tuple": lambda: (),
    "list": lambda: [Odd()],
    "generator": lambda: (i for i in "ab"),
    "array": lambda: np.zeros((2, 2)),
    "tensor": lambda: torch.zeros(2, 2),
    "scalar tensor": lambda: torch.tensor(3),
    "threat": lambda: eb.ThreatModel(eps=0.1),
    "NUL": lambda: "a\0b",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    root = tmp_path_factory.mktemp("kinds")
    return [eb.evaluate(trained(seed=i), suite="ifgsm1", n=2, name=f"m{i}", out=root / str(i)) for i in range(2)]


def calls(results: list[Result]) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """Public functions, each with arguments that would be right."""
    model = eb.Ensemble([trained(), trained(seed=1)])
    x, y = eb.data.load("digits", n=2)
    threat = eb.ThreatModel(eps=0.1)
    quick = {"suite": "ifgsm1", "n": 2}
    yield eb.evaluate, {"model": model, **quick}
    yield evaluate_checkpoints, {"models": ["nowhere"], **quick}
    yield eb.diagnose, {"model": model, "dataset": "digits", "attack": "margin1", "n": 2}
    yield eb.compare, {"models": results}
    yield eb.bundle, {"run": "nowhere"}
    yield eb.train, {"recipe": "nothing"}
    yield eb.load, {"source": "nowhere"}
    yield eb.data.load, {"name": "digits", "n": 2}
    yield eb.data.open_source, {"name": "digits"}
    yield eb.attacks.get, {"name": "pgd1"}
    yield eb.attacks.get("pgd1").__call__, {"model": model, "x": x, "y": y, "threat": threat}
    yield eb.ThreatModel, {}
    yield eb.Ensemble, {"members": [nn.Flatten()]}
    yield model.member_logits, {"x": x}
    yield model.aggregate_as, {"aggregation": "logit"}
    yield eb.Recipe, {"members": 2}


def test_no_value_of_another_kind_gets_deep_inside(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked, wrong = 0, []
    for function, right in calls(results):
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or parameter.name == "look":
                continue
            for name, make in VALUES.items():
                asked += 1
                try:
                    function(**{**right, parameter.name: make()})
                except Exception as error:  # one that is not the user's is what the test is about
                    if not isinstance(error, EnsembleBenchError) or "\n" in str(error):
                        wrong.append(f"{function.__qualname__}({parameter.name}={name}): {error!r}")
    assert not wrong, "\n".join(wrong)
    assert asked > 900


def test_what_is_taken_and_how_the_rest_is_told() -> None:
    @takes
    def function(name: str, n: int | None = None, at: str | Path = "x", rate: float = 0.1) -> tuple[Any, ...]:
        return name, n, at, rate

    taken = function("a", np.int64(3), rate=np.float32(0.5))  # type: ignore[arg-type]
    assert taken == ("a", 3, "x", 0.5)
    assert [type(value) for value in taken] == [str, int, str, float]
    for arguments, told in (
        ({"name": "a", "at": 3}, "at is 3: expected a text or a path"),
        ({"name": "a", "n": Odd()}, "n is a Odd: expected a whole number or None"),
        ({"name": Odd}, "name is the class Odd: expected a text"),
        ({"name": "a", "at": "b\0"}, r"at is 'b\\x00': no text has a NUL in it"),
        ({}, "function: missing a required argument: 'name'"),
        ({"name": "a", "m": 1}, "function: got an unexpected keyword argument 'm'"),
    ):
        with pytest.raises(InvalidValueError, match=f"^{told}$"):
            function(**arguments)  # type: ignore[arg-type]


def test_errors_are_one_line_whatever_they_quote() -> None:
    assert str(InvalidValueError("x is array([[0],\n       [1]])")) == "x is array([[0], [1]])"
    assert str(InvalidValueError("two  spaces stay")) == "two  spaces stay"
