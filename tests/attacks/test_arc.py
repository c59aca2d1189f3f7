"""ARC on linear members, where boundaries, distances and the best attack on a random draw are known."""

import math
from collections.abc import Callable

import pytest
import torch
from small_models import BadGradient, Linear, images, searched, trained
from torch import Tensor, nn

from ensemble_bench import Ensemble, ThreatModel, attacks
from ensemble_bench.attacks.arc import nearest_boundary
from ensemble_bench.errors import AttackError, InvalidValueError

LINF, L2 = ThreatModel(eps=0.1), ThreatModel(norm="l2", eps=0.1)
each_norm = pytest.mark.parametrize("threat", [LINF, L2], ids=lambda t: t.norm)


class Constant(nn.Module):
    """A gate that says the same of every image."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.logits = torch.tensor(weights).log()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def linear(seed: int, classes: int = 5, pixels: int = 12) -> Linear:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, pixels, generator=generator, dtype=torch.float64)
    return Linear(weight, torch.randn(classes, generator=generator, dtype=torch.float64))


def expected_accuracy(model: Ensemble, x: Tensor, y: Tensor, weights: list[float]) -> Tensor:
    """Chance that a member drawn by `weights` is right."""
    with torch.no_grad():
        right = [(member(x).argmax(dim=1) == y).double() for member in model.members]
    return sum(w * r for w, r in zip(weights, right, strict=True))  # type: ignore[return-value]


# The nearest boundary


@each_norm
def test_nearest_boundary_is_that_of_all_pairs(threat: ThreatModel) -> None:
    model = linear(0)
    x = torch.rand(40, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(40) % 5
    direction, normal, distance = nearest_boundary(model, x, y, threat, classes=4)
    weight, logits = model.weight.detach(), model(x).detach()
    for n in range(40):
        label = int(y[n])
        best, along = math.inf, None
        for j in set(range(5)) - {label}:
            w = weight[j] - weight[label]
            dual = w.abs().sum() if threat.norm == "linf" else w.norm()
            far = ((logits[n, label] - logits[n, j]) / dual).item()
            if far < best:
                best, along = far, w.sign() if threat.norm == "linf" else w / w.norm()
        assert distance[n].item() == pytest.approx(best)
        torch.testing.assert_close(direction[n], along)
    torch.testing.assert_close((direction * normal).sum(dim=1), torch.ones(40, dtype=torch.float64))
    assert (distance < 0).any()  # behind those that are fooled
    there = model(x + distance[:, None] * direction).detach()
    wrong = there.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    torch.testing.assert_close(wrong[distance > 0], there.gather(1, y[:, None])[:, 0][distance > 0])


def test_only_the_strongest_classes_are_looked_at() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 100.0]])
    model = Linear(weight, torch.tensor([3.0, 2.0, 1.0]))
    x, y = torch.zeros(1, 2), torch.tensor([0])
    near, nearest = (nearest_boundary(model, x, y, L2, classes=c)[2].item() for c in (1, 2))
    assert near == pytest.approx(1.0)
    assert nearest == pytest.approx(0.02)
    assert nearest_boundary(model, x, y, L2, classes=50)[2].item() == pytest.approx(0.02)


# What it is for


def hidden_weakness(aggregation: str) -> tuple[Ensemble, Tensor, Tensor]:
    """A steep member that no one in the ball fools, and a flat one of weight 0.6, fooled only against the steep one.

    The average of their margins follows the steep one, away from the flat one's boundary.
    """
    pixels = 8
    w = torch.ones(pixels)
    steep = Linear(torch.stack([0 * w, 50 * w]), torch.tensor([0.0, -50 * 0.9 * pixels]))
    flat = Linear(torch.stack([0 * w, -w]), torch.tensor([0.0, 0.45 * pixels]))
    model = Ensemble([steep, flat], aggregation=aggregation, gate=Constant(0.4, 0.6))
    x = torch.linspace(0.47, 0.53, 10)[:, None].expand(10, pixels).contiguous()
    return model, x, torch.zeros(10, dtype=torch.int64)


@pytest.mark.parametrize("aggregation", ["draw", "vote"])
def test_it_breaks_a_random_ensemble_that_gradients_of_the_average_margin_do_not(aggregation: str) -> None:
    model, x, y = hidden_weakness(aggregation)
    assert (expected_accuracy(model, x, y, [0.4, 0.6]) == 1).all()
    found = attacks.get("arc10").run(model, x, y, LINF)
    assert found.broken.all()
    torch.testing.assert_close(expected_accuracy(model, found.x_adv, y, [0.4, 0.6]), torch.full((10,), 0.4).double())
    for name in ("mean-member50", "bypass50"):
        other = attacks.get(name, random_start=False).run(model, x, y, LINF)
        assert not other.broken.any(), name


def test_one_round_bends_around_two_boundaries() -> None:
    """Two orthogonal boundaries at 0.3 of a step: straight at either leaves the other one uncrossed."""
    eps = L2.eps
    members = []
    for pixel in (0, 1):
        weight = torch.zeros(2, 4)
        weight[1, pixel] = 1.0
        members.append(Linear(weight, torch.tensor([0.0, -0.5 - 0.3 * eps])))
    model = Ensemble(members, aggregation="draw")
    x, y = torch.full((1, 4), 0.5), torch.tensor([0])
    found = attacks.get("arc1", random_start=False).run(model, x, y, L2)
    assert found.broken.all()
    move = (found.x_adv - x)[0]
    # The first move is (1, 0); the bend adds 0.3/(1 − 0.3) and the overshoot.
    bent = torch.tensor([1.0, 0.3 / 0.7 + 0.05, 0.0, 0.0])
    torch.testing.assert_close(move, eps * bent / bent.norm(), rtol=1e-4, atol=1e-6)


@each_norm
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.8, 0.2]])
def test_expected_accuracy_never_rises(threat: ThreatModel, weights: list[float]) -> None:
    model = Ensemble(trained(members=2).members, aggregation="draw", gate=Constant(*weights)).eval()
    x, y = images(60)
    size = 0.08 if threat.norm == "linf" else 0.4
    threat = ThreatModel(norm=threat.norm, eps=size)
    outcome = attacks.get("arc6", random_start=False).run(model, x, y, threat)
    threat.check(outcome.x_adv, x)
    before, after = (expected_accuracy(model, at, y, weights) for at in (x, outcome.x_adv))
    assert (after <= before + 1e-6).all()
    assert after.mean() < 0.9 * before.mean()
    assert torch.equal(outcome.broken, model.aggregate_as("vote")(outcome.x_adv).argmax(dim=1) != y)


# How it runs


def test_passes_are_those_of_the_members() -> None:
    model, (x, y) = trained(members=2), images(30)
    count = [0]

    def forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        count[0] += len(args[0])
        if output.requires_grad:
            output.register_hook(backward)

    def backward(grad: Tensor) -> None:
        count[0] += len(grad)

    for member in model.members:
        member.register_forward_hook(forward)
    outcome = searched(attacks.get("arc3", classes=2), model, x, y, LINF, batch_size=8)
    assert outcome.passes == math.ceil(count[0] / 2)


def test_steps_are_rounds_until_broken() -> None:
    model, (x, y) = trained(members=2), images(60)
    outcome = attacks.get("arc4").run(model, x, y, LINF)
    with torch.no_grad():
        wrong = model(x).argmax(dim=1) != y
    assert not outcome.steps[wrong].any()
    assert torch.equal(outcome.x_adv[wrong], x[wrong])
    assert (outcome.steps[~outcome.broken] == 4).all()
    assert len(outcome.steps[outcome.broken & ~wrong].unique()) > 1
    assert outcome.steps.max() == 4


def test_on_done_counts_up_to_all_images() -> None:
    model, (x, y), heard = trained(members=2), images(30), []
    outcome = attacks.get("arc2").run(model, x, y, LINF, batch_size=8, on_done=lambda *told: heard.append(told))
    with torch.no_grad():
        right = model(x).argmax(dim=1) == y
    assert [done for done, _ in heard][-1] == right.sum()
    assert heard == sorted(heard)
    assert heard[-1][1] == (outcome.broken & right).sum()


class Changed(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = trained(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits.detach(), "the model has no gradient: it detaches its input"),
        (BadGradient.apply, "gradient holds NaN"),
        (lambda logits: logits * math.nan, "NaN or infinite logits"),
    ],
)
def test_members_that_no_search_can_rest_on_raise(change: Callable[[Tensor], Tensor], message: str) -> None:
    x, y = images(12)
    with pytest.raises(AttackError, match=message):
        attacks.get("arc3")(Ensemble([Changed(change), Changed(change)]), x, y, LINF)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 0}, "classes is 0: expected at least 1"),
        ({"step_size": 0.0}, "step_size is 0.0: expected more than 0"),
        ({"overshoot": -1.0}, "overshoot is -1.0: expected more than 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        attacks.get("arc5", **settings)
