"""Masking warnings: each raised by a model built to deserve it, none by an honest one."""

from collections.abc import Sequence

import pandas as pd
import pytest
import torch
from small_models import Wrapped, blackbox_set, trained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.evaluation.masking import warnings_of
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.records import AttackResult, NamedWarning


def warnings(model: nn.Module, suite: str = "paper", n: int = 48) -> dict[str, str]:
    result = eb.evaluate(model, suite=suite, n=n, blackbox=blackbox_set())
    return {w.name: w.message for w in result.warnings}


class Quantised(torch.autograd.Function):
    """Rounds images to `levels`; its true gradient is zero."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (x * 6).round() / 6

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return torch.zeros_like(grad)


class PiecewiseConstant(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(Quantised.apply(x))


def test_an_honest_model_gets_none() -> None:
    assert warnings(trained()) == {}
    assert warnings(trained(members=2)) == {}
    assert warnings(trained(), suite="quick") == {}


def test_predictions_that_change_between_calls() -> None:
    noisy = Wrapped(trained(), lambda logits, x: logits + 2 * torch.randn(logits.shape))
    found = warnings(noisy)
    assert "clean predictions changed when the model was asked again" in found["unstable-predictions"]


def test_a_single_image_that_changes_is_enough() -> None:
    calls = []

    def flip_once(logits: Tensor, x: Tensor) -> Tensor:
        calls.append(1)
        flip = torch.ones_like(logits)
        if len(calls) == 2:  # the first call only tells which model this is
            flip[0] = -1
        return logits * flip

    assert warnings(Wrapped(trained(), flip_once), suite="quick")["unstable-predictions"].startswith("1 of 48")


def test_zero_gradients_and_black_box_images_that_break_more() -> None:
    found = warnings(PiecewiseConstant(trained(seed=1, eps=0.01)))
    assert "the gradient is exactly zero at the start of" in found["zero-gradients"]
    assert "every white-box attack missed" in found["blackbox-breaks-more"]


def result(name: str, robust: int, n: int = 200, credit: int = 0) -> AttackResult:
    return AttackResult(
        name=name,
        settings={},
        n=n,
        robust=robust,
        accuracy=robust / n if n else None,
        ci_low=0.0,
        ci_high=1.0,
        credit=credit,
        seconds=0.0,
    )


def found_in(
    attacks: Sequence[AttackResult], zero: dict[str, int] | None = None, unstable: int = 0
) -> list[NamedWarning]:
    """Warnings of 200 images, each attack leaving the first ones standing."""
    samples = pd.DataFrame({"id": range(200), **{a.name: [i < a.robust for i in range(200)] for a in attacks}})
    return list(warnings_of(Scores(samples=samples, zero_gradients=zero or {}, unstable=unstable), attacks))


@pytest.mark.parametrize(
    ("few", "many", "warned"),
    # Of 7 images where only one stands p is 2/2⁷ = 0.016, of 8 it is 0.008.
    [(100, 100, False), (100, 107, False), (100, 108, True), (100, 40, False), (0, 200, True)],
)
def test_more_steps_that_leave_more_standing(few: int, many: int, warned: bool) -> None:
    found = found_in([result("pgd20", many), result("pgd5", few)])  # in any order
    assert [w.name for w in found] == ["more-steps-weaker"] * warned
    if warned:
        assert found[0].message.startswith(f"pgd20 leaves {many} of 200 images standing, pgd5 only {few}")


def test_only_attacks_of_one_family_and_twice_the_steps_are_compared() -> None:
    assert found_in([result("pgd5", 50), result("ifgsm7", 150), result("apgd100", 190), result("blackbox", 199)]) == []
    assert found_in([result("ifgsm5", 50), result("ifgsm7", 150)]) == []


@pytest.mark.parametrize(("count", "warned"), [(0, False), (2, False), (3, True)])
def test_a_share_of_one_percent_is_chance(count: int, warned: bool) -> None:
    assert [w.name for w in found_in([], zero={"pgd5": count})] == ["zero-gradients"] * warned
    blackbox = [result("pgd5", 100), result("blackbox", 50, n=80, credit=count)]
    assert [w.name for w in found_in(blackbox)] == ["blackbox-breaks-more"] * warned


def test_attacks_without_images_raise_no_warning() -> None:
    assert found_in([result("pgd5", 0, n=0), result("pgd20", 0, n=0), result("blackbox", 0, n=0)]) == []
