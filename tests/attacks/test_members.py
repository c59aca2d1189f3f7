"""Attacks on members: their values against plain loops, their paths against attacks on the member alone."""

import json

import pytest
import torch
from chance import FALSE_ALARM
from scipy.stats import binomtest
from small_models import Linear, images, linear_images, recorded, searched, trained
from torch import Tensor, nn

from ensemble_bench import Ensemble, ThreatModel, attacks, losses
from ensemble_bench.attacks.apgd import APGD
from ensemble_bench.attacks.engine import Attack, Chain
from ensemble_bench.attacks.members import OnMembers, bypass, members_of, weights_of
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.errors import InvalidValueError

THREAT = ThreatModel(eps=0.1)
POOLED = ("mean-member", "max-member", "clipped-member", "random-member")


class Tilt(nn.Module):
    """A gate of two members whose word changes with the image."""

    def forward(self, x: Tensor) -> Tensor:
        tilt = 3 * (x.flatten(1).mean(dim=1) - 0.3)
        return torch.stack([tilt, -tilt], dim=1)


def gated() -> Ensemble:
    return Ensemble(trained(members=2).members, gate=Tilt()).eval()


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def plain_margins(model: Ensemble, x: Tensor, y: Tensor) -> list[Tensor]:
    """Every member's largest wrong logit minus the right one, image by image."""
    margins = []
    for member in model.members:
        rows = [[v for c, v in enumerate(z) if c != label] for z, label in zip(member(x), y.tolist(), strict=True)]
        right = [z[label] for z, label in zip(member(x), y.tolist(), strict=True)]
        margins.append(torch.stack([torch.stack(r).max() - v for r, v in zip(rows, right, strict=True)]))
    return margins


@pytest.mark.parametrize("family", ["bypass", "mean-member", "max-member", "clipped-member"])
@pytest.mark.parametrize("make", [lambda: trained(members=2), gated], ids=["plain", "gated"])
def test_value_and_gradient_are_those_of_the_formula(family: str, make: type[Ensemble]) -> None:
    model, x, y = make().double(), images(12)[0].double().requires_grad_(), images(12)[1]
    attack = attacks.get(f"{family}5")
    assert isinstance(attack, OnMembers)
    _, value = attack.evaluate(model, x, {"y": y})

    weight = Tilt()(x).softmax(dim=1).T if model.gate is not None else torch.full((2, 1), 0.5)
    margins = plain_margins(model, x, y)
    mean = weight[0][:, None] * model.members[0](x) + weight[1][:, None] * model.members[1](x)
    expected = {
        "bypass": plain_margins(Ensemble([Constant(mean)]), x, y)[0],
        "mean-member": weight[0] * margins[0] + weight[1] * margins[1],
        "max-member": torch.maximum(margins[0], margins[1]),
        "clipped-member": weight[0] * margins[0].clamp(max=1) + weight[1] * margins[1].clamp(max=1),
    }[family]
    torch.testing.assert_close(value, expected)
    grads = [torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in (value, expected)]
    torch.testing.assert_close(*grads)
    assert grads[0].abs().sum() > 0


class Constant(nn.Module):
    """Always the same logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def test_bypass_is_auto_pgd_on_the_logit_average_but_for_the_verdict() -> None:
    model, (x, y) = gated(), images(40)
    expected = APGD(name="same", steps=15, loss=losses.margin, stop_early=False)(
        model.aggregate_as("logit"), x, y, THREAT
    )
    found = bypass(15, name="same", stop_early=False)(model, x, y, THREAT)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bypass8", *(f"{family}8" for family in POOLED), "member-transfer8"])
@pytest.mark.parametrize("gate", [None, Tilt()], ids=["plain", "gated"])
def test_the_whole_ensemble_decides_in_any_batch(name: str, gate: nn.Module | None) -> None:
    threat = ThreatModel(eps=0.02)
    linear, x, y, _ = linear_images(threat)  # of which rounding tips no verdict
    model = Ensemble([linear, Linear(2 * linear.weight, 2 * linear.bias)], gate=gate).eval()
    base, *others = (attacks.get(name).run(model, x, y, threat, batch_size=b) for b in (64, 7))
    assert torch.equal(base.broken, predictions(model, base.x_adv) != y)
    assert 0 < base.broken.sum() < 32
    threat.check(base.x_adv, x)
    for other in others:
        assert torch.equal(other.broken, base.broken)
        assert torch.equal(other.steps, base.steps)


@pytest.mark.parametrize("name", ["bypass6", "mean-member6", "random-member6"])
def test_every_step_calls_the_members_once(name: str) -> None:
    model, (x, y) = trained(members=2), images(30)
    with recorded(model.members[1]) as calls:
        searched(attacks.get(name, stop_early=False, keep="best"), model, x, y, THREAT, batch_size=30)
    assert [n for n, gradient in calls if gradient] == [30] * 6


# Random members


def test_a_random_member_is_another_one_at_each_step() -> None:
    """Member m moves pixel m alone, so that the pixels that move tell who was drawn; a gate of 3 : 1 draws as often."""
    sees = [torch.zeros(2, 4), torch.zeros(2, 4)]
    for pixel, weight in enumerate(sees):
        weight[1, pixel] = 1e-3
    bias = torch.tensor([100.0, 0.0])
    gate = Constant(torch.tensor([3.0, 1.0]).log().expand(500, 2))
    model = Ensemble([Linear(weight, bias) for weight in sees], gate=gate)
    seen: list[Tensor] = []

    class Watched(type(attacks.get("random-member40"))):  # type: ignore[misc]
        def step(self, s, value, grad, threat):  # type: ignore[no-untyped-def]
            seen.append(grad[:, :2] != 0)
            super().step(s, value, grad, threat)

    attack = Watched(name="r", steps=40, step_size=0.1, stop_early=False)
    x, y = torch.full((500, 4), 0.5), torch.zeros(500, dtype=torch.int64)
    searched(attack, model, x, y, THREAT, batch_size=500)
    moves = torch.stack(seen)
    assert (moves.sum(dim=2) == 1).all()
    first = moves[..., 0].double()
    drawn, draws = int(first.sum()), first.numel()
    assert binomtest(drawn, draws, 0.75).pvalue > FALSE_ALARM
    for other in (0.5, 0.72, 0.78, 1.0):  # what 20,000 draws tell from 3 : 1
        assert binomtest(drawn, draws, other).pvalue < FALSE_ALARM
    assert (first.std(dim=0) > 0).double().mean() > 0.99
    assert (first.std(dim=1) > 0).all()


def test_random_members_are_drawn_by_seed() -> None:
    model, (x, y) = trained(members=2), images(10)
    attack = attacks.get("random-member3", random_start=False, stop_early=False)
    first, again, other = (attack(model, x, y, THREAT, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_member_that_is_fooled_enough_is_let_go_by_clipping() -> None:
    model, (x, y) = trained(members=2), images(6)
    x = x.clone().requires_grad_()
    attack = attacks.get("clipped-member5", bound=-1e6)  # all are beyond it
    assert isinstance(attack, OnMembers)
    (grad,) = torch.autograd.grad(attack.evaluate(model, x, {"y": y})[1].sum(), x)
    assert not grad.any()


# Member transfer


def test_member_transfer_runs_a_stage_for_every_member() -> None:
    model, (x, y) = trained(members=2), images(20)
    attack = attacks.get("member-transfer6", stop_early=False)
    stages = attack.parts(model)
    assert [stage.name for stage in stages] == [f"member-transfer6/member{m}" for m in (1, 2)]
    assert [stage.name for stage in attack.parts(Linear(torch.eye(2), torch.zeros(2)))] == ["member-transfer6/member1"]
    for stage, member in zip(stages, model.members, strict=True):
        alone = APGD(name=stage.name, steps=6, stop_early=False)
        torch.testing.assert_close(stage(model, x, y, THREAT), alone(member, x, y, THREAT), rtol=0, atol=1e-5)


def test_member_transfer_counts_every_iterate_against_the_ensemble() -> None:
    """The ensemble errs where its second member sees a band of grey; the first one leads from there to the far end."""

    class Band(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside = (x[:, 0] - 0.48).abs() < 0.02
            return torch.stack([0 * x[:, 0], 20.0 * inside - 10], dim=1)

    brighter = Linear(torch.tensor([[0.0], [0.1]]), torch.tensor([0.1, 0.0]))
    model, threat = Ensemble([brighter, Band()]), ThreatModel(eps=0.1)
    x, y = torch.full((200, 1), 0.45), torch.zeros(200, dtype=torch.int64)
    first, _ = attacks.get("member-transfer20").parts(model)
    last, _ = attacks.get("member-transfer20", stop_early=False).parts(model)
    assert not (predictions(model, last(model, x, y, threat)) != y).any()
    # Starts are uniform in 0.35 to 0.55, of which the band is a fifth.
    counted = first.run(model, x, y, threat)
    assert torch.equal(counted.broken, predictions(model, counted.x_adv) != y)
    assert 0.1 < counted.broken.double().mean() < 0.3


# Names and settings


@pytest.mark.parametrize("family", POOLED)
def test_doubling_goes_on_while_anything_breaks(family: str) -> None:
    chain = attacks.get(f"{family}-doubled80", restarts=2)
    assert isinstance(chain, Chain)
    assert chain.name == f"{family}-doubled80"
    assert chain.patience == 2
    names = [stage.name for stage in chain.stages]
    assert names == [f"{family}-doubled80/{n}" for n in (10, 20, 40, 80)]
    for stage, steps in zip(chain.stages, (10, 20, 40, 80), strict=True):
        assert isinstance(stage, PGD)
        assert (stage.steps, stage.step_size, stage.restarts) == (steps, 2.5 / steps, 2)
    first_two = attacks.get(f"{family}-doubled80", first=20, patience=3)
    assert isinstance(first_two, Chain)
    assert (len(first_two.stages), first_two.patience) == (3, 3)


@pytest.mark.parametrize("name", ["bypass9", "clipped-member9", "random-member-doubled20", "member-transfer9"])
def test_settings_can_be_written_down(name: str) -> None:
    attack: Attack = attacks.get(name)
    assert json.loads(json.dumps(attack.settings()))["name"] == name
    with pytest.raises(InvalidValueError, match="restarts is 0"):
        attacks.get(name, restarts=0)


def test_weights_are_the_ensembles_own() -> None:
    x = images(5)[0]
    model = gated()
    logits = model.member_logits(x)
    torch.testing.assert_close(weights_of(model, logits, x), Tilt()(x).softmax(dim=1).T)
    torch.testing.assert_close(weights_of(trained(members=2), logits, x), torch.full((2, 5), 0.5))
    torch.testing.assert_close(weights_of(nn.Identity(), logits[:1], x), torch.ones(1, 5))
    assert list(members_of(model)) == list(model.members)
    single = nn.Identity()
    assert members_of(single) == [single]


class Alike(nn.Module):
    """A model of another class that has all that an ensemble has."""

    def __init__(self, model: Ensemble) -> None:
        super().__init__()
        self.members, self.gate, self.aggregation = model.members, model.gate, model.aggregation
        for method in ("member_logits", "log_weights", "aggregate", "aggregate_as", "forward"):
            setattr(self, method, getattr(model, method))


@pytest.mark.parametrize("name", ["mean-member4", "bypass4", "member-transfer4", "mora4", "arc2"])
def test_a_class_like_ours_is_attacked_as_ours(name: str) -> None:
    x, y = images(24)
    ours, theirs = (attacks.get(name).run(model, x, y, THREAT) for model in (gated(), Alike(gated())))
    assert torch.equal(ours.x_adv, theirs.x_adv)
    assert (ours.passes, ours.broken.tolist()) == (theirs.passes, theirs.broken.tolist())


@pytest.mark.parametrize(("name", "plain"), [("bypass6", "apgd6"), ("mean-member6", "margin6")])
def test_the_only_member_of_a_network_is_the_network(name: str, plain: str) -> None:
    network, (x, y) = trained(members=1).members[0], images(40)
    settings = {"loss": losses.margin, "random_start": False}
    on_members, on_it = (attacks.get(n, **settings).run(network, x, y, THREAT) for n in (name, plain))
    assert torch.equal(on_members.x_adv, on_it.x_adv)
    assert torch.equal(on_members.margin, on_it.margin)
