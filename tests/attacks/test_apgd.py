"""Auto-PGD against the two public implementations at the published number of steps."""

import functools
from typing import Any

import pytest
import torch
import torchattacks
from chance import CONFIDENCE, power, weaker
from pyautoattack.autopgd_base import APGDAttack
from small_models import images, trained
from torch import Tensor, nn
from valley import CENTRE, valley

from ensemble_bench import ThreatModel, attacks
from ensemble_bench.errors import InvalidValueError

NAMES = {"ce": "apgd100", "dlr": "apgd-dlr100"}
LIBRARIES = ("torchattacks", "pyautoattack")
N = 600
# Planted faults: what a wrong count of steps, a lost momentum or both would do.
WEAKENED: dict[str, dict[str, Any]] = {
    "half the steps": {"steps": 50},
    "no momentum": {"alpha": 1.0},
    "both": {"steps": 50, "alpha": 1.0},
}
# Two norms, two losses, two libraries share the false-alarm rate.
COMPARISONS = 8
each_norm = pytest.mark.parametrize("norm", ["linf", "l2"])
each_loss = pytest.mark.parametrize("loss", ["ce", "dlr"])


def standing(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """Which images `model` gets right."""
    with torch.no_grad():
        right: Tensor = model(x_adv).argmax(dim=1) == y
    return right


def ours(norm: str, loss: str, **settings: Any) -> Tensor:
    """Which images of the valley our Auto-PGD leaves standing."""
    model, x, y, threat = valley(norm, N)
    steps = settings.pop("steps", 100)
    attack = attacks.get(NAMES[loss].replace("100", str(steps)), **settings)
    return ~attack.run(model, x, y, threat, batch_size=N).broken


@functools.lru_cache
def theirs(library: str, norm: str, loss: str) -> Tensor:
    """Which images of the valley the library's Auto-PGD leaves standing, after 100 steps from a start of its own."""
    model, x, y, threat = valley(norm, N)
    shared: dict[str, Any] = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": threat.eps, "loss": loss, "seed": 0}
    if library == "torchattacks":
        x_adv = torchattacks.APGD(model, steps=100, **shared)(x, y)
    else:
        x_adv = APGDAttack(model, n_iter=100, device="cpu", **shared).perturb(x, y)
    threat.check(x_adv, x)
    return standing(model, x_adv, y)


@pytest.mark.parametrize("library", LIBRARIES)
@each_loss
@each_norm
def test_no_weaker_than_the_references(norm: str, loss: str, library: str) -> None:
    """Starts differ, so by chance: all eight comparisons together raise a false alarm at most once in 10⁶."""
    model, x, y, _ = valley(norm, N)
    assert standing(model, x, y).all()
    assert not standing(model, torch.full_like(x, CENTRE), y).any()  # who searched well enough would break them all
    reference = theirs(library, norm, loss)
    assert 0.25 * N < reference.sum() < 0.75 * N  # a mixed field
    assert not weaker(ours(norm, loss), reference, comparisons=COMPARISONS)


@pytest.mark.parametrize("weakened", WEAKENED)
@each_loss
@each_norm
def test_a_weaker_attack_fails_that_comparison(norm: str, loss: str, weakened: str) -> None:
    """The comparison's power: each planted fault is found, and would be on fresh images at least 999 times in 1,000."""
    planted = ours(norm, loss, **WEAKENED[weakened])
    for library in LIBRARIES:
        assert weaker(planted, theirs(library, norm, loss), comparisons=COMPARISONS)
        assert power(planted, theirs(library, norm, loss), comparisons=COMPARISONS) > CONFIDENCE


def test_checkpoints_are_the_published_ones() -> None:
    """p_j of the paper for 100 steps: 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99."""
    assert attacks.get("apgd100").checkpoints() == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    # Rounded up, as in the paper; the authors' code rounds gaps down: 4, 7, 9, 10, … and 11, 21, 30, 38, ….
    assert attacks.get("apgd20").checkpoints() == [0, 5, 9, 12, 14, 16, 18, 19, 20]
    assert attacks.get("apgd50").checkpoints() == [0, 11, 21, 29, 35, 40, 44, 47, 50]
    for steps in (1, 2, 5, 20, 1000):
        marks = attacks.get(f"apgd{steps}").checkpoints()
        assert marks[0] == 0
        assert marks[-1] <= steps


def test_step_size_halves_where_there_is_no_progress() -> None:
    """On a loss that is flat, every checkpoint halves; on one that climbs at every step, none does."""
    from ensemble_bench.attacks.apgd import APGD

    sizes: list[Tensor] = []

    class Watched(APGD):
        def step(self, s, value, grad, threat):  # type: ignore[no-untyped-def]
            super().step(s, value, grad, threat)
            sizes.append(s["eta"] / threat.eps)

    x, y = torch.full((2, 4), 0.5), torch.tensor([0, 0])
    flat = nn.Linear(4, 2)
    nn.init.zeros_(flat.weight)
    with torch.no_grad():
        flat.bias.copy_(torch.tensor([1.0, 0.0]))
    Watched(name="w", steps=100).run(flat, x, y, ThreatModel(eps=0.1))
    halvings = [i for i in range(1, 100) if (sizes[i] < sizes[i - 1]).all()]
    assert halvings == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sizes[0].tolist() == [2.0, 2.0]


def test_best_iterate_cannot_be_switched_off() -> None:
    with pytest.raises(InvalidValueError, match="best iterate"):
        attacks.get("apgd20", keep="last")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_work(steps: int) -> None:
    model, (x, y), threat = trained(), images(20), ThreatModel(eps=0.1)
    x_adv = attacks.get(f"apgd{steps}")(model, x, y, threat)
    threat.check(x_adv, x)
