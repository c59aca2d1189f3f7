"""Restarts and stages meet the same images again: steps add up, images count once, and what is further stays."""

import pytest
import torch
from small_models import Wrapped, images, perceptron
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench import ThreatModel, attacks

THREAT = ThreatModel(eps=0.06)
WEAK = {"step_size": 0.1}


def test_steps_of_restarts_add_up() -> None:
    model, (x, y) = perceptron(0), images(200)
    once, often = (attacks.get("ifgsm3", restarts=n, **WEAK).run(model, x, y, THREAT) for n in (1, 8))
    late = often.broken & ~once.broken
    assert late.any()
    assert torch.equal(often.steps[once.broken], once.steps[once.broken])
    assert (often.steps[late] >= 3).all()
    assert (often.steps[~often.broken] == 8 * 3).all()


def test_further_restarts_at_full_strength_lose_nothing() -> None:
    model, (x, y) = perceptron(0), images(200)
    once, often = (attacks.get("ifgsm3", restarts=n, stop_early=False, **WEAK).run(model, x, y, THREAT) for n in (1, 8))
    assert (often.broken >= once.broken).all()
    assert (often.margin >= once.margin).all()
    assert (often.margin > once.margin).any()
    assert (often.steps == 8 * 3).all()


@pytest.mark.parametrize(("name", "restarts"), [("ifgsm2", 1), ("ifgsm2", 7), ("apgd-t2", 1), ("malt2", 1)])
def test_an_image_without_gradient_counts_once(name: str, restarts: int) -> None:
    """The last image alone has a pixel at which all logits are constant; they are right there."""
    x, y = images(12)
    x = (0.2 + 0.6 * x).index_fill(0, torch.tensor([11]), 1.0)
    constant = torch.arange(10.0).flip(0).roll(int(y[11]))

    def dead(logits: Tensor, at: Tensor) -> Tensor:
        return torch.where(at.flatten(1)[:, :1] > 0.9, constant, logits)

    model: nn.Module = Wrapped(perceptron(0), dead)
    y = y.where(torch.arange(12) == 11, model(x).argmax(1))
    found = attacks.get(name, restarts=restarts).run(model, x, y, ThreatModel(eps=1e-3))
    assert found.zero_gradients == 1


@pytest.mark.parametrize(("restarts", "stop_early"), [(1, True), (5, True), (1, False)])
def test_a_curve_tells_the_accuracy_after_so_many_steps_of_all_restarts(restarts: int, stop_early: bool) -> None:
    model, n = perceptron(0), 60
    attack = attacks.get("ifgsm3", restarts=restarts, stop_early=stop_early, **WEAK)
    [found] = eb.evaluate(model, dataset="digits", suite=attack, n=n, threat=THREAT).record.attacks
    if not stop_early:  # nobody looks at the iterates before the last
        assert found.curve is None
        return
    assert found.curve is not None
    assert len(found.curve) == 3 * restarts + 1
    first = eb.evaluate(model, dataset="digits", suite=attacks.get("ifgsm3", **WEAK), n=n, threat=THREAT)
    assert found.curve[:3] == (first.record.attacks[0].curve or ())[:3]
    assert found.curve[-1] == found.accuracy
