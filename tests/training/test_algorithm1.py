"""A training step against Algorithm 1 of the paper, written out plainly, in float64 so that signs cannot flip."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from ensemble_bench.attacks.training_attack import perturb
from ensemble_bench.data import DataSource
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.randomness import generator
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.objectives import OBJECTIVES, ensemble_loss, member_mean_loss, update

EPS, RATE, STEPS = 32 / 255, 0.1, 3


def _networks(digits: DataSource) -> nn.Module:
    architecture = Architecture(
        backbone="small_cnn",
        classes=10,
        image_shape=digits.image_shape,
        mean=digits.mean,
        std=digits.std,
        members=2,
    )
    return build(architecture, seed=3).double()


def _batches(digits: DataSource) -> list[tuple[Tensor, Tensor]]:
    train = digits.split("train")
    return [(x.double(), y) for x, y in (train.batch(range(32 * i, 32 * i + 32)) for i in range(STEPS))]


def _loss(members: list[nn.Module], x: Tensor, y: Tensor, objective: str) -> Tensor:
    probs = torch.stack([member(x).softmax(dim=1) for member in members])[:, range(len(y)), y]
    return -probs.mean(dim=0).log().mean() if objective == "ensemble" else -probs.log().mean()


def _algorithm_1(members: list[nn.Module], batches: list[tuple[Tensor, Tensor]], objective: str) -> None:
    parameters = [p for member in members for p in member.parameters()]
    momenta = [torch.zeros_like(p) for p in parameters]
    for t, (x, y) in enumerate(batches):
        for member in members:
            member.eval()
        noise = torch.randn(x.shape, generator=generator("cpu", "attack", 0, t), dtype=torch.float64)
        x_adv = (x + EPS / 2 * noise).clamp(x - EPS, x + EPS).clamp(0, 1)
        for _ in range(7):
            x_adv = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(_loss(members, x_adv, y, "ensemble"), x_adv)
            x_adv = (x_adv + EPS / 4 * grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1).detach()
        for member in members:
            member.train()
        loss = (_loss(members, x, y, objective) + _loss(members, x_adv, y, objective)) / 2
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, m, g in zip(parameters, momenta, grads, strict=True):
                m.mul_(0.9).add_(g + 5e-4 * p)
                p.sub_(RATE * m)


@pytest.mark.parametrize("objective", ["ensemble", "member-mean"])
def test_three_steps_equal_algorithm_1(digits: DataSource, objective: str) -> None:
    model = _networks(digits)
    plain = [copy.deepcopy(member).to(memory_format=torch.contiguous_format) for member in model.members]
    batches = _batches(digits)
    _algorithm_1(plain, batches, objective)

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    model.train()
    threat = ThreatModel(eps=EPS)
    for t, (x, y) in enumerate(batches):
        noise = generator("cpu", "attack", 0, t)
        x_adv = perturb("ifgsm7", model, x, y, threat, generator=noise, start="gaussian")
        update(model, optimizer, [x, x_adv], y, objective=OBJECTIVES[objective])

    for ours, theirs in zip(model.members, plain, strict=True):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_objectives_differ_and_agree_where_they_must(digits: DataSource) -> None:
    model = _networks(digits).eval()
    x, y = _batches(digits)[0]
    ensemble, mean = ensemble_loss(model, x, y), member_mean_loss(model, x, y)
    # Jensen: −log of the mean probability is at most the mean of the −logs.
    assert (ensemble <= mean).all()
    assert not torch.allclose(ensemble, mean)
    single = type(model)(model.members[:1])
    torch.testing.assert_close(ensemble_loss(single, x, y), member_mean_loss(single, x, y))


def test_update_reports_the_mean_of_both_losses(digits: DataSource) -> None:
    model = _networks(digits).train()
    x, y = _batches(digits)[0]
    expected = (ensemble_loss(model, x, y).mean() + ensemble_loss(model, 1 - x, y).mean()) / 2
    loss = update(model, torch.optim.SGD(model.parameters(), lr=0.0), [x, 1 - x], y)
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-12)
    assert not loss.requires_grad


def test_bf16_step_is_near_the_float32_step(digits: DataSource) -> None:
    losses = []
    for precision in ("float32", "bf16"):
        model = _networks(digits).float().train()
        x, y = digits.split("train").batch(range(32))
        losses.append(update(model, torch.optim.SGD(model.parameters(), lr=0.1), [x], y, precision=precision).item())
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
