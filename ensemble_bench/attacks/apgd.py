"""Auto-PGD: momentum, and a step size that halves when progress stalls (Croce & Hein 2020, arXiv 2003.01690)."""

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks.engine import Chain, GradientAttack, Noise, State, per_image, targeted, where
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Auto-PGD with the published settings: first step 2·eps, ρ = 0.75, momentum 0.75, restarts from the best point."""

    marks: ClassVar[tuple[int, int, int]] = (22, 3, 6)
    """First checkpoint, by how much every gap is shorter than the one before, and the shortest gap: % of the steps."""
    rho: float = 0.75
    alpha: float = 0.75
    keep: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep != "best":
            raise InvalidValueError(f"{self.name}: keep is {self.keep!r}: Auto-PGD works from its best iterate")

    def checkpoints(self) -> list[int]:
        """Iterations at which a step size may halve: 0 and then ⌈p_j·steps⌉ with p_1 = 0.22 and shrinking gaps.

        The paper's formula. The authors' code rounds the gaps down instead: the same marks at 100 steps, earlier ones
        at 20 and later ones at 50.
        """
        first, shorter, shortest = self.marks
        percent = [0, first]
        while percent[-1] < 100:
            percent.append(percent[-1] + max(percent[-1] - percent[-2] - shorter, shortest))
        return sorted({-(-p * self.steps // 100) for p in percent if p < 100})

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """No history yet: nothing is best, the last halving is at iteration 0."""
        rows = len(s["x"])
        s["x_prev"] = s["x_adv"]
        s["best_grad"] = s["x"].new_zeros(s["x"].shape)
        s["eta"] = s["x"].new_full((rows,), 2 * threat.eps)
        s["previous_value"] = s["x"].new_full((rows,), torch.inf)
        s["rises"] = torch.zeros_like(s["y"])
        s["value_at_check"] = s["x"].new_full((rows,), -torch.inf)
        s["halved_at_check"] = torch.ones_like(s["y"], dtype=torch.bool)

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """z = Π(x + η·steepest(∇)); x ← Π(x + α(z − x) + (1−α)(x − x_prev)), after a check of the progress."""
        _, x_adv, grad = self.standpoint(s, value, grad)
        step = per_image(s["eta"], x_adv) * threat.steepest(grad)
        z = threat.project(x_adv + step, s["x"])
        # The very first step has no momentum.
        alpha = per_image(torch.where(s["i"] == 0, 1.0, self.alpha), x_adv)
        moved = x_adv + alpha * (z - x_adv) + (1 - alpha) * (x_adv - s["x_prev"])
        s["x_prev"] = x_adv
        s["x_adv"] = threat.project(moved, s["x"])

    def standpoint(self, s: State, value: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where (batch) the best point is next, after a check of the progress; point and gradient to step from."""
        s["best_grad"] = where(s["better"], grad, s["best_grad"])
        back = self._halve_where_stalled(s, value)
        return back, where(back, s["best_x"], s["x_adv"]), where(back, s["best_grad"], grad)

    def _halve_where_stalled(self, s: State, value: Tensor) -> Tensor:
        """Halve the step at a checkpoint without progress, and say where (batch): there the best point is next."""
        s["rises"] = s["rises"] + (value > s["previous_value"])
        s["previous_value"] = value
        marks = self.checkpoints()
        interval = torch.zeros(self.steps + 1, dtype=torch.int64, device=value.device)
        interval[marks[1:]] = torch.tensor([b - a for a, b in itertools.pairwise(marks)], device=value.device)
        length = interval[s["i"]]
        here = length > 0
        few_rises = s["rises"] < self.rho * length
        no_gain = ~s["halved_at_check"] & (s["value_at_check"] >= s["best_loss"])
        halve = here & (few_rises | no_gain)

        s["eta"] = torch.where(halve, s["eta"] / 2, s["eta"])
        s["halved_at_check"] = torch.where(here, halve, s["halved_at_check"])
        s["value_at_check"] = torch.where(here, s["best_loss"], s["value_at_check"])
        s["rises"] = torch.where(here, 0, s["rises"])
        return halve


def apgd_ce(steps: int, **settings: Any) -> APGD:
    """Auto-PGD with `steps` steps on the cross-entropy."""
    return replace(APGD(name=f"apgd{steps}", steps=steps), **settings)


def apgd_dlr(steps: int, **settings: Any) -> APGD:
    """Auto-PGD with `steps` steps on the difference of logits ratio."""
    return replace(APGD(name=f"apgd-dlr{steps}", steps=steps, loss=losses.dlr), **settings)


def apgd_t(steps: int, *, classes: int = 9, **settings: Any) -> Chain:
    """Targeted Auto-PGD: `steps` steps on the targeted difference of logits ratio, at each of the strongest classes."""
    attack = APGD(name=f"apgd-t{steps}", steps=steps, loss=losses.dlr_targeted)
    return targeted(replace(attack, **settings), classes=classes)
