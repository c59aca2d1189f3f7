"""ReACG: Auto-PGD's steps along rescaled conjugate gradients (Yamamura et al. 2024; ACG: the same, ICML 2022)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks.apgd import APGD
from ensemble_bench.attacks.engine import Noise, State, per_image, where
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class ReACG(APGD):
    """Steps along d_k = g_k + β·d_{k−1}, g_k being the gradient, where Auto-PGD follows g_k with momentum.

    β is Hestenes and Stiefel's. Where |β| exceeds the mean of |g_k / d_{k−1}| over the pixels, d_{k−1} would dominate:
    β is then that of the gradients scaled to length 1, if it is smaller. Steps halve at later checkpoints than
    Auto-PGD's, the first at 43 % of the steps. `alpha`, Auto-PGD's momentum, is not used.
    """

    marks: ClassVar[tuple[int, int, int]] = (43, 24, 8)

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """The start has no past; the past of the best iterate is kept, to step on from there."""
        super().init(s, threat, noise)
        for past in ("grad_prev", "direction", "best_grad_prev", "best_direction"):
            s[past] = torch.zeros_like(s["x"])

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """x ← Π(x + η·steepest(d)), after a check of the progress."""
        for past in ("grad_prev", "direction"):
            s[f"best_{past}"] = where(s["better"], s[past], s[f"best_{past}"])
        back, x_adv, grad = self.standpoint(s, value, grad)
        before, along = (where(back, s[f"best_{past}"], s[past]) for past in ("grad_prev", "direction"))

        direction = grad.double() + per_image(coefficient(grad, before, along), grad.double()) * along.double()
        # Scaled to 1: β·d, and with it the attack, stays as it is, and d cannot overflow.
        largest = direction.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
        s["direction"] = (direction / per_image(largest, direction)).to(grad.dtype)
        s["grad_prev"] = grad
        step = per_image(s["eta"], x_adv) * threat.steepest(s["direction"])
        s["x_adv"] = threat.project(x_adv + step, s["x"])


def coefficient(
    grad: Float[Tensor, "batch *image"], before: Float[Tensor, "batch *image"], along: Float[Tensor, "batch *image"]
) -> Float[Tensor, "batch"]:
    """β, rescaled where it is too large, of the gradients here and before, and of the direction `along` in between."""
    g, h, d = (t.double().flatten(1) for t in (grad, before, along))
    beta = hestenes_stiefel(g, h, d)
    tiny = torch.finfo(torch.float64).tiny
    unit_g, unit_h = (t / t.norm(dim=1, keepdim=True).clamp_min(tiny) for t in (g, h))
    rescaled = hestenes_stiefel(unit_g, unit_h, d)
    dominates = beta.abs() > (g.abs() / d.abs().clamp_min(tiny)).mean(dim=1)
    return torch.where(dominates & (rescaled.abs() < beta.abs()), rescaled, beta)


def hestenes_stiefel(
    grad: Float[Tensor, "batch pixel"], before: Float[Tensor, "batch pixel"], along: Float[Tensor, "batch pixel"]
) -> Float[Tensor, "batch"]:
    """β = −⟨g, h − g⟩/⟨d, h − g⟩, g being the gradient here and h before: g + β·d is conjugate to d; 0 for 0/0."""
    change = before - grad
    slope = (along * change).sum(dim=1)
    return torch.where(slope == 0, 0, -(grad * change).sum(dim=1) / torch.where(slope == 0, 1, slope))


def reacg(steps: int, **settings: Any) -> ReACG:
    """ReACG with `steps` steps on the margin, from the image itself as its authors start it."""
    return replace(ReACG(name=f"reacg{steps}", steps=steps, loss=losses.margin, random_start=False), **settings)
