"""MORA: the members' logits, each weighted by its effect on the ensemble's error (Yu, Gao & Xu, NeurIPS 2022)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks.engine import Chain, GradientAttack, Noise, State, cosine, per_image
from ensemble_bench.attacks.members import weights_of
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import calling
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.threat import ThreatModel

BETA = 0.2
ALPHAS = (0.5, 0.0, 0.25, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class MORA(GradientAttack):
    """Ascends (1−α)·log p̄/gap + α·Σ mᵢwᵢzᵢ/(s·Σ mᵢwᵢ), with a step from 2·eps down to 0 along a cosine, and momentum.

    zᵢ are the members' logits, p̄ is the mean of their probabilities and gap that of its two largest logs; wᵢ are
    `member_weights` towards the strongest wrong class or the target, mᵢ says that member i is still right, and
    s = max(1, the members' largest gap/10). Weights and scales count as constants. `beta` is the temperature of the
    weights (None: 0.2, and 0 for ensembles that average logits).

    Raises InvalidValueError for an alpha outside [0, 1].
    """

    alpha: float = 0.5
    beta: float | None = None
    momentum: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise InvalidValueError(f"{self.name}: alpha is {self.alpha}: expected 0 to 1")

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """The start has no past."""
        s["x_prev"] = s["x_adv"]

    def evaluate(self, model: Ensemble, x_adv: Tensor, s: State) -> tuple[Tensor, Tensor]:
        """Logits of the ensemble, and the loss of the reweighed ones."""
        logits = calling.member_logits_of(model, x_adv)
        whole = calling.aggregated(model, logits, x_adv)
        # A draw or a count of votes has no gradient to ascend: the mean probability of the members stands in.
        hard = model.aggregation in ("draw", "vote")
        log_mean = calling.aggregated(model.aggregate_as("prob"), logits, x_adv) if hard else whole

        beta = self.beta if self.beta is not None else 0.0 if model.aggregation == "logit" else BETA
        wrong = losses.wrong_logits(log_mean, s["y"]).argmax(dim=1) if self.target is None else s["target"]
        weights = member_weights(
            logits.detach(), s["y"], wrong, beta=beta, shares=weights_of(model, logits, x_adv).detach()
        )
        weights = weights_of_the_right(weights, logits.argmax(dim=2) == s["y"])
        scale = (top_gap(logits).amax(dim=0) / 10).clamp_min(1)
        reweighed = (weights[..., None] * logits).sum(dim=0) / scale[:, None]
        combined = (1 - self.alpha) * log_mean / top_gap(log_mean)[:, None] + self.alpha * reweighed
        return whole, self.loss_of(combined, s)

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """z = Π(x + η·steepest(∇)), η = eps·(1 + cos(πt/T)); x ← Π(x + μ(z − x) + (1−μ)(x − x_prev))."""
        x_adv = s["x_adv"]
        size = 2 * threat.eps * cosine(s, self.steps)
        z = threat.project(x_adv + per_image(size, x_adv) * threat.steepest(grad), s["x"])
        # The very first step has no momentum.
        mu = per_image(torch.where(s["i"] == 0, 1.0, self.momentum), x_adv)
        moved = x_adv + mu * (z - x_adv) + (1 - mu) * (x_adv - s["x_prev"])
        s["x_prev"] = x_adv
        s["x_adv"] = threat.project(moved, s["x"])


def member_weights(
    logits: Float[Tensor, "member batch class"],
    y: Int64[Tensor, "batch"],
    wrong: Int64[Tensor, "batch"],
    *,
    beta: float,
    shares: Float[Tensor, "member #batch"],
) -> Float[Tensor, "member batch"]:
    """wᵢ = gᵢ·pᵢⱼ[(1 − pᵢⱼ)/p̄ⱼ + pᵢᵧ/p̄ᵧ] for j = `wrong`, pᵢ = softmax(β·zᵢ) and p̄ = Σ gᵢpᵢ, gᵢ being the `shares`.

    β·wᵢ is exactly ∂(log p̄ⱼ − log p̄ᵧ)/∂zᵢⱼ. Computed from logs, so that confident members do not divide 0 by 0.
    """
    log_probs = (beta * logits).log_softmax(dim=2)
    log_mean = (log_probs + shares.log()[..., None]).logsumexp(dim=0)

    def of(c: Tensor) -> tuple[Tensor, Tensor]:
        log_p = log_probs.gather(2, c.expand(len(logits), -1)[..., None])[..., 0]
        return log_p, log_p - log_mean.gather(1, c[:, None])[:, 0]

    (log_j, log_ratio_j), (_, log_ratio_y) = of(wrong), of(y)
    return shares * (log_ratio_j.exp() * -log_j.expm1() + (log_j + log_ratio_y).exp())


def weights_of_the_right(
    weights: Float[Tensor, "member batch"], right: Bool[Tensor, "member batch"]
) -> Float[Tensor, "member batch"]:
    """`weights` of the members that are still right, adding up to 1; of all of them where none is, or none counts."""
    masked = weights * right
    masked = torch.where(masked.sum(dim=0) > 0, masked, weights)
    masked = torch.where(masked.sum(dim=0) > 0, masked, 1.0)
    return masked / masked.sum(dim=0)


def top_gap(logits: Float[Tensor, "*member batch class"]) -> Float[Tensor, "*member batch"]:
    """Largest logit minus the second largest, as a constant to divide by: at least 1e-6, and 1 for a single class."""
    if logits.shape[-1] < 2:
        return torch.ones_like(logits[..., 0])
    first, second = logits.detach().topk(2, dim=-1).values.unbind(dim=-1)
    return (first - second).clamp_min(1e-6)


def mora(steps: int, *, alphas: tuple[float, ...] = ALPHAS, classes: int = 9, **settings: Any) -> Chain:
    """MORA with `steps` steps at each alpha while images stand, then at alpha 0.5 on the margin of a target.

    Targets are the `classes` strongest wrong classes, one after the other.
    """
    attack = replace(MORA(name=f"mora{steps}", steps=steps), **settings)
    name = attack.name
    untargeted = [replace(attack, name=f"{name}/alpha{alpha:g}", alpha=alpha) for alpha in alphas]
    targeted = [
        replace(attack, name=f"{name}/target{rank}", alpha=0.5, target=rank, loss=losses.margin_targeted)
        for rank in range(1, classes + 1)
    ]
    return Chain(name=name, stages=(*untargeted, *targeted))
