"""Output-diversified starts: their steps in closed form, what they are for, and what they must not do."""

import math

import pytest
import torch
from small_models import Linear, images, trained
from torch import Tensor

from ensemble_bench import ThreatModel, attacks
from ensemble_bench.attacks.odi import ODI
from ensemble_bench.errors import InvalidValueError

THREAT = ThreatModel(eps=0.1)


class Watched(ODI):
    """Notes the state at every step."""

    def step(self, s, value, grad, threat) -> None:  # type: ignore[no-untyped-def]
        self.seen.append({"value": value, **s})
        super().step(s, value, grad, threat)
        self.seen[-1]["next"] = s["x_adv"]


def watched(steps: int, **settings: object) -> Watched:
    attack = Watched(**vars(attacks.get(f"margin-odi{steps}", **settings)))
    object.__setattr__(attack, "seen", [])
    return attack


@pytest.mark.parametrize("threat", [THREAT, ThreatModel(norm="l2", eps=0.5)], ids=lambda t: t.norm)
def test_first_steps_climb_a_random_direction_of_the_output(threat: ThreatModel) -> None:
    """On a linear model the gradient of wᵀf is Wᵀw, everywhere."""
    generator = torch.Generator().manual_seed(0)
    model = Linear(torch.randn(4, 9, generator=generator), torch.zeros(4))
    x, y = 0.4 + 0.2 * torch.rand(20, 9, generator=generator), torch.arange(20) % 4
    attack = watched(6, stop_early=False)
    attack(model, x, y, threat, seed=3)
    first, second, third = attack.seen[:3]
    assert (first["direction"].abs() <= 1).all()
    assert len(first["direction"].unique()) == 80  # every image has its own
    gradient = first["direction"] @ model.weight.detach()
    unit = gradient.sign() if threat.norm == "linf" else gradient / gradient.norm(dim=1, keepdim=True)
    for s in (first, second):
        torch.testing.assert_close(s["next"], threat.project(s["x_adv"] + threat.eps * unit, x))
    moved = (third["next"] - third["x_adv"]).abs().amax()
    assert moved < threat.eps * 2.5 / 6 + 1e-6


def test_none_of_the_first_iterates_is_the_best_one() -> None:
    model, (x, y), threat = trained(), images(60), ThreatModel(eps=0.06)
    attack = watched(4, odi_steps=3)
    outcome = attack.run(model, x, y, threat)
    best = torch.full((60,), -math.inf)
    for s in attack.seen:
        early = s["i"] < 3
        assert (s["value"][early] == -math.inf).all()
        assert s["value"][~early].isfinite().all()
        best[s["row"]] = torch.maximum(best[s["row"]], s["value"])
    standing = ~outcome.broken
    assert standing.any()
    assert (outcome.margin[standing] >= best[standing] - 1e-5).all()


def test_a_misclassified_first_iterate_counts() -> None:
    model, (x, y) = trained(), images(60)
    outcome = attacks.get("margin-odi20", odi_steps=4).run(model, x, y, ThreatModel(eps=0.2), seed=1)
    early = outcome.broken & (outcome.steps > 0) & (outcome.steps <= 4)
    assert early.any()
    with torch.no_grad():
        assert (model(outcome.x_adv).argmax(dim=1) != y)[early].all()


def test_starts_differ_more_in_output_than_random_ones() -> None:
    """What it is for (Tashiro et al. 2020, figure 1): the spread over restarts, at the first step of PGD."""
    model, (x, y) = trained(), images(30)
    spread = []
    for odi_steps in (0, 2):
        outputs: list[Tensor] = []
        for seed in range(6):
            attack = watched(1, odi_steps=odi_steps, stop_early=False)
            attack(model, x, y, THREAT, seed=seed)
            with torch.no_grad():
                outputs.append(model(attack.seen[-1]["x_adv"]))
        spread.append(torch.stack(outputs).std(dim=0).mean())
    assert spread[1] > 2 * spread[0]


def test_steps_are_those_of_pgd_and_those_before() -> None:
    attack = attacks.get("margin-odi20")
    assert isinstance(attack, ODI)
    assert (attack.name, attack.steps, attack.odi_steps, attack.step_size) == ("margin-odi20", 22, 2, 0.125)
    assert attacks.get("margin-odi20", odi_steps=5).settings()["steps"] == 25


@pytest.mark.parametrize("odi_steps", [-1, 3])
def test_bad_numbers_of_steps_are_named(odi_steps: int) -> None:
    with pytest.raises(InvalidValueError, match=f"odi_steps is {odi_steps}: expected 0 to 2"):
        ODI(name="odi", steps=3, step_size=0.1, odi_steps=odi_steps)
