"""Every attack on models whose optimum is known: in closed form, or by looking everywhere on two pixels."""

import pytest
import torch
from small_models import Linear, images, linear_images, trained
from torch import Tensor, nn

from ensemble_bench import Ensemble, ThreatModel, attacks, registry
from ensemble_bench.attacks.engine import Chain

# "blackbox" needs a file.
FAMILIES = sorted(set(registry.ATTACKS) - {"blackbox"})
STEPS = {"square": 1000}
# What moves against a single member cannot see how another one is fooled; what draws at random may miss it.
ONE_MEMBER = {"max-member", "max-member-doubled", "member-transfer"}
PARTIAL = {*ONE_MEMBER, "random-member", "random-member-doubled", "square"}


def attack(family: str) -> attacks.Attack:
    return attacks.get(f"{family}{STEPS.get(family, 40)}")


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


@pytest.mark.parametrize("threat", [ThreatModel(eps=0.02), ThreatModel(norm="l2", eps=0.08)], ids=lambda t: t.norm)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_linear_model_breaks_exactly_within_its_closed_form_radius(family: str, threat: ThreatModel) -> None:
    model, x, y, radius = linear_images(threat)
    assert torch.equal(predictions(model, x), y)
    broken = attack(family).run(model, x, y, threat).broken
    # At random, Square need not arrive where a boundary is only just in reach.
    reach = 0.4 if family == "square" else 1.0
    assert broken[radius < reach].all()
    assert not broken[radius > 1].any()


def one_pixel_each() -> tuple[Ensemble, Tensor, Tensor]:
    """Two members, each of which sees one of two pixels, and images that the ensemble calls 0.

    To a member, a bright pixel is a 1 and a dark one is a 2, and the images are bright. Alone, a member is fooled by
    its own pixel, and knows no direction for the other one.
    """
    first = 10 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    bias = torch.tensor([2.0, -5.0, 5.0])
    model = Ensemble([Linear(first, bias), Linear(first.flip(1), bias)])
    axis = torch.linspace(0.6, 0.69, 9)
    x = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    y = torch.zeros(len(x), dtype=torch.int64)
    assert torch.equal(predictions(model, x), y)
    return model, x, y


def brute_force(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Share of a fine grid over the ball of every image that the model gets wrong."""
    axis = torch.linspace(-eps, eps, 101)
    delta = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    shares = [(predictions(model, image + delta) != label).double().mean() for image, label in zip(x, y, strict=True)]
    return torch.stack(shares)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_members_of_which_each_needs_another_direction(family: str) -> None:
    (model, x, y), threat = one_pixel_each(), ThreatModel(eps=0.07)
    share = brute_force(model, x, y, threat.eps)
    breakable, safe = share > 0.01, share == 0
    assert breakable.sum() > 15
    assert safe.sum() > 15
    broken = attack(family).run(model, x, y, threat).broken
    assert not broken[safe].any()
    if family not in PARTIAL:
        assert broken[breakable].all()
    elif family in ONE_MEMBER:
        assert 0 < broken[breakable].sum() < breakable.sum()
    else:
        assert broken[breakable].double().mean() > 0.5


CERTAIN = 300.0
"""Scale of logits at which 1 − p of a right answer is 0 in float32, and with it the gradient of the cross-entropy."""


@pytest.mark.parametrize(
    ("family", "sees"),
    [
        ("ifgsm", False),
        ("pgd", False),
        ("apgd", False),
        ("member-transfer", False),
        *((family, True) for family in ("bypass", "mean-member", "clipped-member", "max-member", "mora", "arc")),
        *((family, True) for family in ("margin", "margin-odi", "apgd-t", "fab-t", "pma", "reacg", "malt")),
    ],
)
def test_a_saturated_softmax_hides_from_the_cross_entropy_alone(family: str, sees: bool) -> None:
    threat = ThreatModel(eps=0.02)
    linear, x, y, radius = linear_images(threat)
    members = [
        Linear(CERTAIN * scale * linear.weight.detach(), CERTAIN * scale * linear.bias.detach()) for scale in (1, 2)
    ]
    far = radius > 0.5  # out of reach of a random start
    outcome = attack(family).run(Ensemble(members), x[far], y[far], threat)
    assert torch.equal(outcome.broken, (radius[far] < 1) if sees else torch.zeros_like(far)[far])
    assert (outcome.zero_gradients > 0) == (not sees)


SHORT = ("ifgsm3", "mean-member4", "max-member4", "bypass4", "member-transfer3", "margin-odi3", "arc2", "mora2")


@pytest.mark.parametrize("added", range(1, len(SHORT)))
def test_adding_an_attack_never_raises_robust_accuracy(added: int) -> None:
    model, (x, y), threat = trained(members=2), images(60), ThreatModel(eps=0.07)
    stages = [attacks.get(name) for name in SHORT[: added + 1]]
    fewer, more = (Chain(name="chain", stages=s).run(model, x, y, threat) for s in (stages[:-1], stages))
    assert not (fewer.broken & ~more.broken).any()
    assert (more.margin >= fewer.margin)[~more.broken].all()
    assert 0 < more.broken.sum() < 60
