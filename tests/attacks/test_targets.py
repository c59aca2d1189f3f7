"""Targets and draws: which class an attack is told, and attacks on models that answer at random."""

import pytest
import torch
from small_models import Linear, Wrapped, images, searched, trained
from torch import Tensor

from ensemble_bench import Ensemble, ThreatModel, attacks
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models.randomised import Expected

THREAT = ThreatModel(eps=0.1)


def told(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """A loss that notes the targets it is told."""
    told.seen.append(torch.stack([y, target], dim=1))  # type: ignore[attr-defined]
    return logits.gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize("rank", [1, 2, 9])
def test_target_is_the_wrong_class_of_that_rank_at_the_clean_image(rank: int) -> None:
    model, (x, y) = trained(), images(30)
    told.seen = []  # type: ignore[attr-defined]
    attack = PGD(name="t", steps=1, step_size=0.0, loss=told, target=rank, stop_early=False)
    attack(model, x, y, THREAT, batch_size=64)
    with torch.no_grad():
        logits = model(x)
    for label, target, row in zip(*told.seen[0].T.tolist(), logits, strict=True):  # type: ignore[attr-defined]
        wrong = sorted((c for c in range(10) if c != label), key=lambda c: -row[c].item())
        assert target == wrong[rank - 1]


def test_a_rank_beyond_the_classes_attacks_nothing() -> None:
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    model, x = Linear(weight, torch.zeros(3)), torch.full((4, 1, 8, 8), 0.5)
    y = model(x).argmax(dim=1).detach()
    by_rank = [
        attacks.get("margin5", target=t, loss=attacks.get("margin-t5").stages[0].loss).run(model, x, y, THREAT)  # type: ignore[attr-defined]
        for t in (1, 2, 3)
    ]
    assert [int(o.steps.max()) for o in by_rank] == [by_rank[0].steps.max(), by_rank[1].steps.max(), 0]
    assert by_rank[0].broken.any()
    assert torch.equal(by_rank[2].x_adv, x)


def test_targeted_attacks_break_at_least_what_their_first_class_does() -> None:
    model, (x, y) = trained(), images(60)
    one, nine = (attacks.get("apgd-t10", classes=c).run(model, x, y, THREAT) for c in (1, 9))
    assert not (one.broken & ~nine.broken).any()


# Models that answer at random


def test_mean_over_draws_is_what_is_ascended() -> None:
    """Noise of mean zero on the weights: a single draw walks at random, the mean over many does not."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 64, generator=generator)
    base = Linear(weight, torch.zeros(2))

    def noisy(logits: Tensor, x: Tensor) -> Tensor:
        return logits + (x.flatten(1) - 0.5) @ (4 * torch.randn(64, 2))

    x = torch.full((8, 1, 8, 8), 0.5)
    y, noise = base(x).argmax(dim=1).detach(), Wrapped(base, noisy)
    attack = attacks.get("ifgsm1", random_start=False, stop_early=False)
    moved = [searched(attack, Expected(noise, draws=d), x, y, THREAT).x_adv for d in (1, 200)]
    best = THREAT.eps * (weight[1 - y] - weight[y]).sign().view(x.shape)
    agreement = [((m - x) * best > 0).double().mean().item() for m in moved]
    assert agreement[0] < 0.75 < 0.9 < agreement[1]


@pytest.mark.parametrize("what", ["restarts", "target"])
def test_counts_below_one_are_refused(what: str) -> None:
    with pytest.raises(InvalidValueError, match=f"{what} is 0: expected at least 1"):
        attacks.get("margin5", **{what: 0})


def test_an_ensemble_that_draws_a_member_is_judged_by_majority() -> None:
    """Two of three members are right: single draws err, yet the image counts as right until two are wrong."""
    right, wrong = torch.tensor([[1.0], [0.0]]).expand(2, 64), torch.tensor([[0.0], [1.0]]).expand(2, 64)
    members = [Linear(w, torch.zeros(2)) for w in (right, right, wrong)]
    x, y = torch.full((50, 1, 8, 8), 0.5), torch.zeros(50, dtype=torch.int64)
    outcome = attacks.get("ifgsm3").run(Ensemble(members, aggregation="draw"), x, y, ThreatModel(eps=0.01))
    assert not outcome.broken.any()
    turned = [Linear(w, torch.zeros(2)) for w in (right, wrong, wrong)]
    assert attacks.get("ifgsm3").run(Ensemble(turned, aggregation="draw"), x, y, ThreatModel(eps=0.01)).broken.all()


@pytest.mark.parametrize("name", ["ifgsm2", "arc2"])
def test_the_class_of_the_most_draws_decides_where_it_has_less_than_half(name: str) -> None:
    """Of five members two are right and no two of the others agree: expected accuracy is 0.4, and the vote right."""
    weight = torch.zeros(4, 64)
    members = [Linear(weight, 5 * torch.eye(4)[c]) for c in (0, 0, 1, 2, 3)]
    x, y = torch.full((3, 1, 8, 8), 0.5), torch.tensor([0, 1, 2])
    found = attacks.get(name).run(Ensemble(members, aggregation="draw"), x, y, ThreatModel(eps=0.01))
    assert found.broken.tolist() == [False, True, True]
