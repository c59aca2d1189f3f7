"""Attacks that break the rules: the error names them, and what is known already is not lost."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_models import images, trained
from torch import Tensor

from ensemble_bench import attacks, evaluate, registry
from ensemble_bench.attacks.engine import State
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.errors import AttackError
from ensemble_bench.threat import ThreatModel

Change = Callable[[Tensor, ThreatModel], Tensor]


@dataclass(frozen=True, kw_only=True)
class Bad(PGD):
    """PGD that does something to its images from the fourth step on."""

    change: Change

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        super().step(s, value, grad, threat)
        if (s["i"] >= 3).any():
            s["x_adv"] = self.change(s["x_adv"], threat)


def outside(x: Tensor, threat: ThreatModel) -> Tensor:
    return (x + 2.5 * threat.eps * (x < 0.5) - 2.5 * threat.eps * (x >= 0.5)).clamp(0, 1)


def failing(x: Tensor, threat: ThreatModel) -> Tensor:
    raise ZeroDivisionError("no such luck")


CHANGES: dict[str, tuple[Change, str]] = {
    "returns NaN": (lambda x, _: x * torch.nan, "NaN or infinite pixels"),
    "leaves the ball": (outside, "leaves the linf ball"),
    "leaves the image box": (lambda x, _: x - 0.01 - x.amin(), "leaves the image box|leaves the linf ball"),
    "changes the batch order": (lambda x, _: x.roll(1, dims=0), "leaves the linf ball"),
    "returns fewer rows": (lambda x, _: x[1:], ""),
    "raises": (failing, "ZeroDivisionError: no such luck"),
}


@pytest.fixture
def bad(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The attack "bad6" with the change that the test names."""
    change, message = CHANGES[request.param]

    def make(steps: int) -> Bad:
        return Bad(name=f"bad{steps}", steps=steps, step_size=0.25, change=change, random_start=False)

    monkeypatch.setitem(registry.ATTACKS, "bad", registry.AttackCard(home="bad:make"))  # type: ignore[index]
    real = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda kind, name: make if name == "bad" else real(kind, name))
    return message


@pytest.mark.parametrize("bad", CHANGES, indirect=True)
def test_the_error_names_the_attack_and_the_rows_before_it_stay(bad: str, tmp_path: Path) -> None:
    with pytest.raises(AttackError, match=f"bad6.*({bad})"):
        evaluate(trained(), suite="ifgsm2+bad6+pgd3", n=40, out=tmp_path)
    assert not (tmp_path / "record.json").exists()
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line.get("attack") for line in lines[1:]] == ["clean", "ifgsm2"]


@pytest.mark.parametrize("bad", ["raises"], indirect=True)
def test_once_mended_the_evaluation_goes_on(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttackError, match="bad6"):
        evaluate(trained(), suite="ifgsm2+bad6", n=40, out=tmp_path)
    monkeypatch.setattr(Bad, "step", PGD.step)
    stages = set()

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        stages.add(fields.get("stage"))

    found = evaluate(trained(), suite="ifgsm2+bad6", n=40, out=tmp_path, progress=progress)
    assert stages - {None} == {"2 of 2: bad6"}  # what the first attack found was kept
    assert found.samples["ifgsm2"].equals(evaluate(trained(), suite="ifgsm2", n=40).samples["ifgsm2"])


@pytest.mark.parametrize("bad", ["leaves the ball"], indirect=True)
def test_called_directly_it_raises_too(bad: str) -> None:
    x, y = images(20)
    with pytest.raises(AttackError, match="bad6: x_adv leaves"):
        attacks.get("bad6")(trained(), x, y, ThreatModel(eps=0.05))
