"""MORA: its weights against autograd, its path against a plain loop over its formula."""

import math

import pytest
import torch
from small_models import Linear, images, linear_images, trained
from torch import Tensor, nn

from ensemble_bench import Ensemble, ThreatModel, attacks
from ensemble_bench.attacks.engine import Chain, GradientAttack
from ensemble_bench.attacks.mora import MORA, member_weights, weights_of_the_right
from ensemble_bench.errors import InvalidValueError

THREAT = ThreatModel(eps=0.1)


class Tilt(nn.Module):
    """A gate of two members whose word changes with the image."""

    def forward(self, x: Tensor) -> Tensor:
        tilt = 3 * (x.flatten(1).mean(dim=1) - 0.3)
        return torch.stack([tilt, -tilt], dim=1)


def random_logits(members: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in float64, labels, and a wrong class for each."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(members, 50, 10, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (50,), generator=generator)
    return logits, y, (y + torch.randint(1, 10, (50,), generator=generator)) % 10


@pytest.mark.parametrize("beta", [1.0, 0.2])
@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.7, 0.2, 0.1]])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_weights_are_the_derivative_of_the_log_odds(beta: float, shares: list[float], scale: float) -> None:
    """β·wᵢ = ∂(log p̄ⱼ − log p̄ᵧ)/∂zᵢⱼ, p̄ the mean, by shares, of softmax(β·zᵢ)."""
    logits, y, wrong = random_logits(len(shares), scale)
    logits.requires_grad_()
    share = torch.tensor(shares, dtype=torch.float64)
    mean = (share[:, None, None] * (beta * logits).softmax(dim=2)).sum(dim=0)
    rows = torch.arange(len(y))
    (grad,) = torch.autograd.grad((mean[rows, wrong].log() - mean[rows, y].log()).sum(), logits)
    found = member_weights(logits.detach(), y, wrong, beta=beta, shares=share[:, None])
    torch.testing.assert_close(beta * found, grad[:, rows, wrong], rtol=1e-9, atol=1e-15)


def test_weights_of_equal_members_are_those_of_the_formula() -> None:
    """pᵢⱼ[(1 − pᵢⱼ)/p̄ⱼ + pᵢᵧ/p̄ᵧ]/k, as written; at β = 0 all count alike."""
    logits, y, wrong = random_logits(3, 4.0)
    shares, rows = torch.full((3, 1), 1 / 3, dtype=torch.float64), torch.arange(50)
    p = (0.2 * logits).softmax(dim=2)
    mean = p.mean(dim=0)
    pj, py = p[:, rows, wrong], p[:, rows, y]
    written = pj * ((1 - pj) / mean[rows, wrong] + py / mean[rows, y]) / 3
    torch.testing.assert_close(member_weights(logits, y, wrong, beta=0.2, shares=shares), written)
    flat = member_weights(logits, y, wrong, beta=0.0, shares=shares)
    torch.testing.assert_close(flat, flat[:1].expand(3, 50))


def test_weights_of_certain_members_do_not_vanish_in_float32() -> None:
    logits = torch.zeros(2, 1, 3)
    logits[:, 0, 0] = torch.tensor([900.0, 1000.0])
    y, wrong = torch.tensor([0]), torch.tensor([1])
    weights = member_weights(logits, y, wrong, beta=1.0, shares=torch.full((2, 1), 0.5))
    # p̄ⱼ is half of what the first member gives it: ½·pⱼ/p̄ⱼ is 1 there, give or take the rounding of logits of 900.
    torch.testing.assert_close(weights, torch.tensor([[1.0], [0.0]]), rtol=0, atol=1e-3)


def test_only_members_that_are_right_count_unless_none_is() -> None:
    weights = torch.tensor([[1.0, 1.0, 0.0], [3.0, 3.0, 0.0]])
    right = torch.tensor([[True, False, True], [False, False, True]])
    found = weights_of_the_right(weights, right)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.25, 0.5], [0.0, 0.75, 0.5]]))


def combined(model: Ensemble, x: Tensor, y: Tensor, alpha: float, beta: float, target: Tensor | None) -> Tensor:
    """(1−α)·log p̄/gap + α·Σ mᵢwᵢzᵢ/(s·Σ mᵢwᵢ), image by image and member by member."""
    rows = []
    for n in range(len(x)):
        one, label = x[n : n + 1], int(y[n])
        z = [member(one)[0] for member in model.members]
        share = torch.ones(2) / 2 if model.gate is None else model.gate(one).softmax(dim=1)[0]
        if model.aggregation == "logit":
            log_mean = sum(g * v for g, v in zip(share, z, strict=True)).log_softmax(0)
        else:
            log_mean = sum(g * v.softmax(0) for g, v in zip(share, z, strict=True)).log()
        order = [c for c in log_mean.argsort(descending=True).tolist() if c != label]
        j = order[0] if target is None else int(target[n])
        p = [(beta * v).softmax(0) for v in z]
        mean = sum(g * v for g, v in zip(share, p, strict=True))
        w = [
            (g * v[j] * ((1 - v[j]) / mean[j] + v[label] / mean[label])).item() * float(int(u.argmax()) == label)
            for g, v, u in zip(share, p, z, strict=True)
        ]
        assert sum(w) > 0
        scale = max(1.0, *((u.sort().values[-1] - u.sort().values[-2]).item() / 10 for u in z))
        gap = (log_mean.sort().values[-1] - log_mean.sort().values[-2]).item()
        members = sum(wi * zi for wi, zi in zip(w, z, strict=True)) / (scale * sum(w))
        rows.append((1 - alpha) * log_mean / gap + alpha * members)
    return torch.stack(rows)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("alpha", "aggregation", "gate", "rank"),
    [(0.5, "prob", False, None), (0.25, "prob", True, None), (1.0, "logit", False, None), (0.5, "prob", True, 2)],
)
def test_path_is_that_of_a_plain_loop(norm: str, alpha: float, aggregation: str, gate: bool, rank: int | None) -> None:
    members = trained(members=2).members
    model = Ensemble(members, aggregation=aggregation, gate=Tilt() if gate else None).double().eval()
    x, y = images(6)[0].double(), images(6)[1]
    threat, steps = ThreatModel(norm=norm, eps=0.03 if norm == "linf" else 0.15), 8
    chain = attacks.get(f"mora{steps}", random_start=False, stop_early=False, keep="last")
    assert isinstance(chain, Chain)
    name = f"mora{steps}/" + (f"alpha{alpha:g}" if rank is None else f"target{rank}")
    attack = next(stage for stage in chain.stages if stage.name == name)
    found = attack(model, x, y, threat)

    target = None
    if rank is not None:
        order = model(x).scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
        target = order[:, rank - 1]
    at, before = x, x
    for t in range(steps):
        at = at.detach().requires_grad_()
        z = combined(model, at, y, alpha, 0.0 if aggregation == "logit" else 0.2, target)
        rows = torch.arange(len(y))
        loss = nn.functional.cross_entropy(z, y, reduction="none") if target is None else z[rows, target] - z[rows, y]
        (grad,) = torch.autograd.grad(loss.sum(), at)
        at = at.detach()
        size = 2 * threat.eps * 0.5 * (1 + math.cos(math.pi * t / steps))
        ahead = threat.project(at + size * threat.steepest(grad), x)
        mixed = ahead if t == 0 else at + 0.75 * (ahead - at) + 0.25 * (at - before)
        at, before = threat.project(mixed, x), at
    torch.testing.assert_close(found, at, rtol=0, atol=1e-9)


def test_stages_are_five_alphas_and_nine_targets() -> None:
    chain = attacks.get("mora100")
    assert isinstance(chain, Chain)
    alphas = ["0.5", "0", "0.25", "0.75", "1"]
    assert [s.name for s in chain.stages] == [
        *(f"mora100/alpha{a}" for a in alphas),
        *(f"mora100/target{t}" for t in range(1, 10)),
    ]
    for stage in chain.stages:
        assert isinstance(stage, MORA)
        assert stage.steps == 100
        assert stage.random_start
    assert [s.settings()["alpha"] for s in chain.stages] == [0.5, 0.0, 0.25, 0.75, 1.0, *[0.5] * 9]
    assert [s.settings()["target"] for s in chain.stages] == [*[None] * 5, *range(1, 10)]
    short = attacks.get("mora7", alphas=(1.0,), classes=2, restarts=3)
    assert isinstance(short, Chain)
    assert [s.name for s in short.stages] == ["mora7/alpha1", "mora7/target1", "mora7/target2"]
    assert all(isinstance(s, GradientAttack) and s.restarts == 3 for s in short.stages)


@pytest.mark.parametrize("aggregation", ["prob", "logit", "draw", "vote"])
def test_every_aggregation_is_attacked_and_decided_by_its_own_verdict(aggregation: str) -> None:
    model, (x, y) = trained(members=2).aggregate_as(aggregation), images(40)
    outcome = attacks.get("mora3", classes=2).run(model, x, y, THREAT)
    judge = model.aggregate_as("vote") if aggregation == "draw" else model
    with torch.no_grad():
        assert torch.equal(outcome.broken, judge(outcome.x_adv).argmax(dim=1) != y)
    assert 0 < outcome.broken.sum() < 40


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_change_nothing_on_a_gated_ensemble(batch_size: int) -> None:
    threat = ThreatModel(eps=0.02)
    linear, x, y, _ = linear_images(threat)  # of which rounding tips no verdict
    model = Ensemble([linear, Linear(2 * linear.weight, 2 * linear.bias)], gate=Tilt()).eval()
    base, other = (attacks.get("mora2", classes=2).run(model, x, y, threat, batch_size=b) for b in (64, batch_size))
    assert 0 < base.broken.sum() < len(x)
    assert torch.equal(other.broken, base.broken)
    assert torch.equal(other.steps, base.steps)


def test_it_goes_on_where_every_member_is_fooled_but_not_the_ensemble() -> None:
    """Two members that are sure of different wrong classes, and agree on the right one as the second best."""

    class Fooled(nn.Module):
        def __init__(self, wrong: int) -> None:
            super().__init__()
            self.wrong = wrong

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack(
                [0 * x[:, 0], *[(1.0 if c == self.wrong else -3.0) * (0.2 + x[:, c]) for c in (1, 2)]], 1
            )

    model = Ensemble([Fooled(1), Fooled(2)])
    x, y = torch.full((4, 3), 0.3), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        assert (model.member_logits(x).argmax(dim=2) != y).all()
        assert (model(x).argmax(dim=1) == y).all()
    attack = MORA(name="m", steps=5, alpha=1.0, random_start=False, stop_early=False)
    outcome = attack.run(model, x, y, ThreatModel(eps=0.05))
    assert outcome.zero_gradients == 0
    assert (outcome.x_adv != x).any()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_out_of_range_is_named(alpha: float) -> None:
    with pytest.raises(InvalidValueError, match=f"alpha is {alpha}: expected 0 to 1"):
        attacks.get("mora5", alphas=(alpha,))
