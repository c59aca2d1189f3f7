"""A training step against Algorithm 1 of the paper, written out plainly, in float64 so that signs cannot flip."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ensemble_bench.data import DataSource
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.randomness import generator
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.algorithm1 import algorithm1, update
from ensemble_bench.training.attack import perturb
from ensemble_bench.training.objectives import Objective, ensemble_loss, member_mean_loss, objective_of
from ensemble_bench.training.state import TrainingState

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

    def attack(x: Tensor, y: Tensor, t: int) -> Tensor:
        noise = generator("cpu", "attack", 0, t)
        return perturb("ifgsm7", model, x, y, ThreatModel(eps=EPS), generator=noise, start="gaussian")

    optimizer, state = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4), TrainingState()
    taken = algorithm1(
        model.train(),
        optimizer,
        state,
        steps=STEPS,
        sample=batches.__getitem__,
        attack=attack,
        objective=objective_of(objective),
        rate=lambda t: RATE,
    )
    assert list(taken) == [1, 2, 3]
    assert (state.step, state.loss_n) == (STEPS, STEPS)

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
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = update(model, sgd, x, 1 - x, y, objective=objective_of("ensemble"))
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-12)
    assert not loss.requires_grad


def test_bf16_step_is_near_the_float32_step(digits: DataSource) -> None:
    losses = []
    for precision in ("float32", "bf16"):
        model = _networks(digits).float().train()
        x, y = digits.split("train").batch(range(32))
        sgd, objective = torch.optim.SGD(model.parameters(), lr=0.1), objective_of("ensemble")
        losses.append(update(model, sgd, x, None, y, objective=objective, precision=precision).item())
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def _trades(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Zhang et al. (2019), Eq. 5: cross-entropy on x, and 6 times the divergence of x_adv's predictions from x's."""
    clean, adversarial = model(x).log_softmax(1), model(x_adv).log_softmax(1)
    yield -clean.gather(1, y[:, None])[:, 0] + 6 * (clean.exp() * (clean - adversarial)).sum(1)


def _mart(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Wang et al. (2020), Eq. 11: boosted cross-entropy on x_adv, and 5 times the divergence where x is uncertain."""
    clean, adversarial = model(x).log_softmax(1), model(x_adv).log_softmax(1)
    right = adversarial.gather(1, y[:, None])[:, 0]
    wrong = adversarial.exp().scatter(1, y[:, None], 0).amax(1)
    doubt = 1 - clean.exp().gather(1, y[:, None])[:, 0]
    yield -right - (1 - wrong).log() + 5 * doubt * (clean.exp() * (clean - adversarial)).sum(1)


@pytest.mark.parametrize("objective", [_trades, _mart])
def test_an_objective_may_compare_x_with_x_adv(digits: DataSource, objective: Objective) -> None:
    model = _networks(digits).train()
    plain = copy.deepcopy(model)
    x, y = _batches(digits)[0]
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=generator("cpu"), dtype=x.dtype)).clamp(0, 1)
    sgd, state = torch.optim.SGD(model.parameters(), lr=RATE), TrainingState()
    list(algorithm1(model, sgd, state, steps=1, sample=lambda t: (x, y), attack=lambda *_: x_adv, objective=objective))

    (loss,) = objective(plain, x, x_adv, y)  # type: ignore[arg-type]
    gradients = torch.autograd.grad(loss.mean(), list(plain.parameters()))
    assert state.loss_sum == pytest.approx(loss.mean().item(), rel=1e-12)
    for ours, before, gradient in zip(model.parameters(), plain.parameters(), gradients, strict=True):
        torch.testing.assert_close(ours, before - RATE * gradient, rtol=1e-9, atol=1e-9)


def test_one_graph_at_a_time_is_in_memory(digits: DataSource) -> None:
    """The first term is differentiated before the second is computed."""
    model = _networks(digits).train()
    weight = next(model.parameters())
    seen: list[bool] = []

    def objective(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        for images in (x, x_adv):
            seen.append(weight.grad is None)
            yield ensemble_loss(model, images, y)  # type: ignore[arg-type]

    x, y = _batches(digits)[0]
    update(model, torch.optim.SGD(model.parameters(), lr=RATE), x, x, y, objective=objective)  # type: ignore[arg-type]
    assert seen == [True, False]


def test_steps_go_on_from_the_state(digits: DataSource) -> None:
    model = _networks(digits).train()
    batches, sampled = _batches(digits), []

    def sample(t: int) -> tuple[Tensor, Tensor]:
        sampled.append(t)
        return batches[t]

    sgd = torch.optim.SGD(model.parameters(), lr=RATE)
    objective = objective_of("ensemble")
    steps = algorithm1(model, sgd, TrainingState(step=1), steps=STEPS, sample=sample, attack=None, objective=objective)
    assert list(steps) == [2, 3]
    assert sampled == [1, 2]
    done = algorithm1(model, sgd, TrainingState(step=3), steps=STEPS, sample=sample, attack=None, objective=objective)
    assert list(done) == []


def test_members_on_images_of_their_own_share_the_loss_of_the_mean(digits: DataSource) -> None:
    model = _networks(digits).eval()
    x, y = (part.double() if part.is_floating_point() else part for part in digits.split("train").batch(range(8)))
    own = torch.stack([x, 1 - x])
    probs = torch.stack([member(part).softmax(1) for member, part in zip(model.members, own, strict=True)])
    picked = probs[:, torch.arange(8), y]
    torch.testing.assert_close(ensemble_loss(model, own, y), -picked.mean(0).log())
    torch.testing.assert_close(member_mean_loss(model, own, y), -picked.log().mean(0))
    # The same images for all is the case that the ensemble itself answers.
    torch.testing.assert_close(ensemble_loss(model, torch.stack([x, x]), y), ensemble_loss(model, x, y))


def test_the_share_of_clean_images_weighs_the_two_losses(digits: DataSource) -> None:
    model = _networks(digits).eval()
    x, y = digits.split("train").batch(range(8))
    x = x.double()
    clean, attacked = ensemble_loss(model, x, y), ensemble_loss(model, 1 - x, y)
    for share in (0.0, 0.25, 1.0):
        found = sum(objective_of("ensemble", clean_share=share)(model, x, 1 - x, y))
        torch.testing.assert_close(found, share * clean + (1 - share) * attacked)
    assert len(list(objective_of("ensemble", clean_share=0.0)(model, x, 1 - x, y))) == 1
    torch.testing.assert_close(sum(objective_of("ensemble", clean_share=0.0)(model, x, None, y)), clean)
