"""Output-diversified initialisation: starts that differ in what the model says, not only in pixels."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks.engine import Loss, Noise, State, per_image
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class ODI(PGD):
    """PGD after `odi_steps` steps of size eps up wᵀf(x), w uniform in [-1, 1)^classes (Tashiro et al. 2020, ODI).

    `steps` counts both. w is drawn anew for every image and restart; the size is theirs for white-box attacks. None of
    the first iterates is the best one, but one that is misclassified counts. Raises InvalidValueError unless
    0 ≤ odi_steps < steps.
    """

    odi_steps: int = 2
    loss: Loss = losses.margin
    keep: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.odi_steps < self.steps:
            raise InvalidValueError(f"{self.name}: odi_steps is {self.odi_steps}: expected 0 to {self.steps - 1}")

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """The direction w."""
        s["direction"] = noise((s["clean_logits"].shape[1],), "direction")

    def evaluate(self, model: Ensemble, x_adv: Tensor, s: State) -> tuple[Tensor, Tensor]:
        """Logits, and wᵀf(x) or, from then on, the loss."""
        logits, value = super().evaluate(model, x_adv, s)
        # At −∞ no such iterate is ever the best; the gradient is that of wᵀf.
        diversity = (s["direction"] * logits).sum(dim=1) - torch.inf
        return logits, torch.where(s["i"] < self.odi_steps, diversity, value)

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """x ← Π(x + η·steepest(∇)), η = eps to begin with."""
        size = torch.where(s["i"] < self.odi_steps, 1.0, self.step_size)
        s["x_adv"] = threat.project(s["x_adv"] + threat.eps * per_image(size, grad) * threat.steepest(grad), s["x"])


def margin_odi(steps: int, *, odi_steps: int = 2, **settings: Any) -> ODI:
    """PGD with `steps` steepest steps of 2.5·eps/steps on the margin, after `odi_steps` steps that diversify."""
    attack = ODI(name=f"margin-odi{steps}", steps=odi_steps + steps, step_size=2.5 / steps, odi_steps=odi_steps)
    return replace(attack, **settings)
