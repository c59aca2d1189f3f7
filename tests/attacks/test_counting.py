"""Passes are counted as they happen, and the model answers as before."""

import torch
from small_models import Linear, images, recorded, searched, trained

from ensemble_bench import ThreatModel, attacks
from ensemble_bench.attacks.engine import Counted


def test_every_forward_and_every_backward_counts_its_images() -> None:
    model, (x, y) = trained(), images(7)
    counted = Counted(model)
    assert counted.passes == 0
    with torch.no_grad():
        assert torch.equal(counted(x), model(x))
    assert (counted.forwards, counted.backwards) == (7, 0)

    x = x.clone().requires_grad_()
    logits = counted(x[:5])
    assert (counted.forwards, counted.backwards) == (12, 0)
    (grad,) = torch.autograd.grad(logits.gather(1, y[:5, None]).sum(), x, retain_graph=True)
    assert (counted.forwards, counted.backwards) == (12, 5)
    (plain,) = torch.autograd.grad(model(x[:5]).gather(1, y[:5, None]).sum(), x)
    assert torch.equal(grad, plain)
    for wrong in range(3):  # one backward a class over the same answer
        torch.autograd.grad(logits[:, wrong].sum(), x, retain_graph=True)
    assert (counted.forwards, counted.backwards) == (12, 20)
    assert counted.passes == 32


def test_a_backward_that_never_reaches_the_answer_costs_nothing() -> None:
    counted = Counted(Linear(torch.ones(2, 4), torch.zeros(2)))
    x = torch.rand(3, 4, requires_grad=True)
    answer = counted(x)
    torch.autograd.grad(x.square().sum() + 0 * answer.detach().sum(), x)
    assert (counted.forwards, counted.backwards) == (3, 0)


def test_the_engine_counts_the_same() -> None:
    model, (x, y) = trained(), images(30)
    counted = Counted(model)
    with recorded(model) as calls:
        outcome = searched(attacks.get("margin8"), counted, x, y, ThreatModel(eps=0.1), batch_size=8)
    assert counted.forwards == sum(n for n, _ in calls)
    assert counted.backwards == sum(n for n, gradient in calls if gradient)
    assert outcome.passes == counted.passes
