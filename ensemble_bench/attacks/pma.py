"""PMA: the probability of the strongest wrong class, then the margin of probabilities (Xie et al., CVPR 2025)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks.engine import GradientAttack, Loss, State, per_image
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class PMA(GradientAttack):
    """Ascends p_j, the largest probability of a wrong class, then p_j − p_y (arXiv 2411.15210).

    Each half of the steps starts with steps of `step_size`·eps, which fall to zero along half a cosine. None of the
    first half's iterates is the best one, but one that is misclassified counts.
    """

    step_size: float = 2.0
    loss: Loss = losses.probability_margin
    keep: str = "best"

    def evaluate(self, model: Ensemble, x_adv: Tensor, s: State) -> tuple[Tensor, Tensor]:
        """Logits, and log p_j or, from half of the steps on, the loss."""
        logits, value = super().evaluate(model, x_adv, s)
        # At −∞ no such iterate is ever the best; the gradient is that of log p_j, which points as that of p_j does.
        first = losses.wrong_probability(logits, s["y"]) - torch.inf
        return logits, torch.where(s["i"] < self.steps // 2, first, value)

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """x ← Π(x + η·steepest(∇)), η = step_size·eps·½(1 + cos(πt/T)), t of T being the steps of the half."""
        half = self.steps // 2
        late = s["i"] >= half
        t, total = torch.where(late, s["i"] - half, s["i"]).double(), torch.where(late, self.steps - half, half)
        size = self.step_size * threat.eps * (1 + (t * torch.pi / total).cos()) / 2
        s["x_adv"] = threat.project(s["x_adv"] + per_image(size, grad) * threat.steepest(grad), s["x"])


def pma(steps: int, **settings: Any) -> PMA:
    """PMA with `steps` steps from a random start."""
    return replace(PMA(name=f"pma{steps}", steps=steps), **settings)
