"""Auto-PGD against the two public implementations at the same number of steps."""

import pytest
import torch
import torchattacks
from pyautoattack.autopgd_base import APGDAttack
from small_models import images, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel, attacks
from ensemble_bench.errors import InvalidValueError

NAMES = {"ce": "apgd20", "dlr": "apgd-dlr20"}


def standing(model: nn.Module, x_adv: Tensor, y: Tensor) -> int:
    with torch.no_grad():
        return int((model(x_adv).argmax(dim=1) == y).sum())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_same_or_lower_robust_accuracy_than_the_references(norm: str, loss: str) -> None:
    """Starts differ, so over three seeds; one image of 200 a seed is left to chance."""
    model, (x, y), seeds = trained(), images(200), range(3)
    threat = ThreatModel(norm=norm, eps=0.08 if norm == "linf" else 0.4)
    ours = [int((~attacks.get(NAMES[loss]).run(model, x, y, threat, seed=seed).broken).sum()) for seed in seeds]
    their_norm = {"linf": "Linf", "l2": "L2"}[norm]

    def torchattacks_apgd(seed: int) -> Tensor:
        return torchattacks.APGD(model, norm=their_norm, eps=threat.eps, steps=20, loss=loss, seed=seed)(x, y)

    def pyautoattack_apgd(seed: int) -> Tensor:
        attack = APGDAttack(model, n_iter=20, norm=their_norm, eps=threat.eps, loss=loss, seed=seed, device="cpu")
        return attack.perturb(x, y)

    for reference in (torchattacks_apgd, pyautoattack_apgd):
        theirs = [standing(model, reference(seed), y) for seed in seeds]
        assert 60 < min(theirs) <= max(theirs) < 180  # a mixed field
        assert sum(ours) <= sum(theirs) + len(seeds)


def test_checkpoints_are_the_published_ones() -> None:
    """p_j of the paper for 100 steps: 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99."""
    assert attacks.get("apgd100").checkpoints() == [0, 22, 41, 57, 70, 80, 87, 93, 99]
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
