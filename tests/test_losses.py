"""Per-example losses against plain Python and their defining properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensemble_bench import losses


def logits_and_labels(seed: int, classes: int = 5, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(16, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (16,), generator=generator)


def plain(name: str, z: list[float], y: int) -> float:
    wrong = max(v for i, v in enumerate(z) if i != y)
    if name == "cross_entropy":
        return math.log(sum(math.exp(v - z[y]) for v in z))
    if name == "margin":
        return wrong - z[y]
    if name == "dlr":
        largest = sorted(z, reverse=True)
        return (wrong - z[y]) / (largest[0] - largest[2])
    total = sum(math.exp(v) for v in z)
    if name == "wrong_probability":
        return math.log(math.exp(wrong) / total)
    return math.log(1 + (math.exp(wrong) - math.exp(z[y])) / total)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr", "probability_margin", "wrong_probability"])
def test_plain_formula(name: str, classes: int) -> None:
    logits, y = logits_and_labels(0, classes)
    expected = [plain(name, z, label) for z, label in zip(logits.tolist(), y.tolist(), strict=True)]
    found = getattr(losses, name)(logits, y)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(seed=st.integers(0, 2**32), classes=st.integers(2, 12))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_margin_and_dlr_are_positive_exactly_when_misclassified(seed: int, classes: int) -> None:
    logits, y = logits_and_labels(seed, classes)
    wrong = logits.argmax(dim=1) != y
    assert torch.equal(losses.margin(logits, y) > 0, wrong)
    assert torch.equal(losses.dlr(logits, y) > 0, wrong)


@given(seed=st.integers(0, 2**32), shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_dlr_ignores_shift_and_scale(seed: int, shift: float, scale: float) -> None:
    logits, y = logits_and_labels(seed)
    torch.testing.assert_close(losses.dlr(scale * logits + shift, y), losses.dlr(logits, y), rtol=1e-6, atol=1e-8)


def test_dlr_of_equal_largest_logits_keeps_its_sign() -> None:
    """The gap that divides it is 0 there, and must not turn a broken image into one that stands."""
    logits, y = torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.0]]), torch.tensor([4])
    assert losses.dlr(logits, y) > 0
    assert losses.dlr_targeted(logits, y, torch.tensor([1])) > 0


def test_wrong_classes_are_ordered_by_their_logits_and_then_by_their_number() -> None:
    logits, y = logits_and_labels(6)
    logits = (logits / 3).round()  # with ties
    for row, z, label in zip(losses.strongest_wrong(logits, y).tolist(), logits.tolist(), y.tolist(), strict=True):
        wrong = [i for i in range(len(z)) if i != label]
        assert row == [*sorted(wrong, key=lambda i: (-z[i], i)), label]


def test_cross_entropy_and_margin_ignore_shifts() -> None:
    logits, y = logits_and_labels(1)
    for loss in (losses.cross_entropy, losses.margin):
        torch.testing.assert_close(loss(logits + 7, y), loss(logits, y))


def test_two_classes_have_no_third_logit() -> None:
    logits, y = logits_and_labels(2, classes=2)
    assert torch.equal(losses.dlr(logits, y), losses.margin(logits, y))


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
def test_gradients_match_finite_differences(name: str) -> None:
    logits, y = logits_and_labels(3)
    assert torch.autograd.gradcheck(lambda z: getattr(losses, name)(z, y), logits.requires_grad_())


@pytest.mark.parametrize("classes", [4, 5])
def test_targeted_losses_have_their_formulas(classes: int) -> None:
    logits, y = logits_and_labels(4, classes)
    target = (y + 3) % logits.shape[1]
    for row, (z, label, t) in enumerate(zip(logits, y.tolist(), target.tolist(), strict=True)):
        first, _, third, fourth = sorted(z.tolist(), reverse=True)[:4]
        margin = (z[t] - z[label]).item()
        assert losses.margin_targeted(logits, y, target)[row].item() == pytest.approx(margin)
        dlr = margin / (first - (third + fourth) / 2)
        assert losses.dlr_targeted(logits, y, target)[row].item() == pytest.approx(dlr)


def test_three_classes_have_no_fourth_logit() -> None:
    logits, y = logits_and_labels(5, classes=3)
    target = (y + 1) % 3
    assert torch.equal(losses.dlr_targeted(logits, y, target), losses.margin_targeted(logits, y, target))
