"""Masking warnings: each raised by a model built to deserve it, none by an honest one."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import Wrapped, blackbox_set, trained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench import registry
from ensemble_bench.cli.console import show_records
from ensemble_bench.evaluation.runner import Result
from ensemble_bench.leaderboard import leaderboard_csv
from ensemble_bench.registry import Suite, suite_of, suites


@pytest.fixture(autouse=True)
def short_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites "short-strongest" and "short-autoattack" of at most 5 steps (100 queries), and a "probed" one."""

    def shortened(name: str) -> str:
        family, steps = registry.split_steps(name)
        return name if steps is None else f"{family}{min(steps, 100 if family == 'square' else 5)}"

    attacks = {f"short-{name}": [shortened(a) for a in suite_of(name).attacks] for name in ("strongest", "autoattack")}
    attacks["probed"] = ["blackbox", "pgd10", "square100"]
    for name, chosen in attacks.items():
        suite = Suite(name=name, attacks=tuple(dict.fromkeys(chosen)), cascade=True, probe=True, description="")
        monkeypatch.setitem(suites.SUITES, name, suite)


def evaluated(model: nn.Module, suite: str = "paper", n: int = 48) -> Result:
    return eb.evaluate(model, suite=suite, n=n, blackbox=blackbox_set())


def warnings(model: nn.Module, suite: str = "paper", n: int = 48) -> dict[str, str]:
    return {w.name: w.message for w in evaluated(model, suite, n).warnings}


def quantised(model: nn.Module) -> nn.Module:
    """Rounds images, whose gradient is zero."""
    return nn.Sequential(Rounded(), model)


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 6).round() / 6


def saturated(model: nn.Module) -> nn.Module:
    """Twenty times the probabilities of sharply scaled logits, handed out as logits: in float32 they do not move."""
    return Wrapped(model, lambda logits, x: 20 * (1000 * logits).softmax(dim=1))


def noisy(model: nn.Module) -> nn.Module:
    return Wrapped(model, lambda logits, x: logits + 2 * torch.randn(logits.shape))


def _waves(x: Tensor, frequency: float, columns: int) -> Tensor:
    directions = torch.randn(64, columns, generator=torch.Generator().manual_seed(0))
    return (frequency * x.flatten(1) @ directions).sin()


def shattered(model: nn.Module) -> nn.Module:
    """Logits with a ripple too small to matter and too steep to see past."""
    return Wrapped(model, lambda logits, x: logits + 0.3 * _waves(x, 1000.0, 10))


def wavy(model: nn.Module) -> nn.Module:
    """The same predictions, but on its way to zero the lead of the first class has hollows where short steps end."""

    def change(logits: Tensor, x: Tensor) -> Tensor:
        first, second = logits.topk(2, dim=1).values.T
        # m + (4/3)·sin(3m) is above 0 for every m > 0.
        lift = (4 / 3) * (3 * (first - second)).sin()
        return logits + lift[:, None] * (logits == first[:, None])

    return Wrapped(model, change)


def decoyed(model: nn.Module) -> nn.Module:
    """The same two first classes; the others rise and fall steeply below them, in both of AutoAttack's losses."""

    def change(logits: Tensor, x: Tensor) -> Tensor:
        second = logits.topk(2, dim=1).values[:, 1:]
        return torch.where(logits < second, second - 0.1 - 5 * _waves(x, 300.0, 1) ** 2, logits)

    return Wrapped(model, change)


@pytest.mark.parametrize("suite", ["paper", "quick", "short-autoattack", "short-strongest"])
@pytest.mark.parametrize(
    "settings", [{}, {"members": 2}, {"members": 2, "eps": 0.0}], ids=["single", "ensemble", "confident"]
)
def test_honest_models_get_none(suite: str, settings: dict[str, Any]) -> None:
    assert warnings(trained(**settings), suite, n=32) == {}


@pytest.mark.parametrize(
    ("build", "suite", "n", "deserved"),
    [
        (quantised, "paper", 60, {"zero-gradients", "blackbox-breaks-more"}),
        (
            quantised,
            "probed",
            60,
            {"zero-gradients", "blackbox-breaks-more", "square-breaks-more", "large-eps-not-zero"},
        ),
        (saturated, "paper", 60, {"zero-gradients", "coarse-logits"}),
        (saturated, "probed", 60, {"zero-gradients", "square-breaks-more", "large-eps-not-zero"}),
        (noisy, "paper", 60, {"randomised"}),
        (noisy, "probed", 20, {"randomised"}),
        (shattered, "pgd20+margin20+square100", 150, {"square-breaks-more"}),
        (shattered, "probed", 150, {"square-breaks-more", "large-eps-not-zero"}),
        (wavy, "ifgsm1+ifgsm2+margin20+ifgsm20", 150, {"single-step-beats-multi-step", "more-steps-weaker"}),
        (wavy, "probed", 150, {"single-step-beats-multi-step", "large-eps-not-zero"}),
        (decoyed, "apgd20+apgd-dlr20+margin20", 150, {"autoattack-weaker-than-pgd"}),
        (decoyed, "probed", 150, {"autoattack-weaker-than-pgd"}),
    ],
)
def test_a_model_gets_what_it_deserves(
    build: Callable[[nn.Module], nn.Module], suite: str, n: int, deserved: set[str]
) -> None:
    # Black-box images break more of a model that is not robust.
    model = trained(seed=1, eps=0.01) if build is quantised else trained()
    found = warnings(build(model), suite, n)
    assert deserved <= found.keys()
    for message in found.values():
        assert re.search(r"\d+ of \d+", message)  # says its numbers


def test_a_warning_is_in_the_record_the_csv_and_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluated(saturated(trained()), "pgd20").record
    assert [w.name for w in record.warnings] == ["coarse-logits", "zero-gradients"]
    warning = record.warnings[1]
    standing = record.clean.n - record.clean.correct
    count = int(warning.message.split()[-4])
    assert record.n - standing >= count > 0.8 * record.n
    assert f"zero-gradients (pgd20: the gradient is exactly zero at the start of {count} of 48 images)" in (
        leaderboard_csv([record])
    )
    show_records([record])
    assert f"warning: {record.model}: zero-gradients: {warning.message}\n" in capsys.readouterr().out


def test_a_single_image_that_changes_is_enough() -> None:
    calls = []

    def flip_once(logits: Tensor, x: Tensor) -> Tensor:
        calls.append(len(x))
        flip = torch.ones_like(logits)
        if calls.count(48) == 1 and len(x) == 48:  # other calls look at the model on fewer images
            flip[0] = -1
        return logits * flip

    assert warnings(Wrapped(trained(), flip_once), suite="quick")["unstable-predictions"].startswith("1 of 48")
