"""Projected gradient attacks: IFGSM, PGD with Adam's update, and PGD on the margin."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks.engine import Chain, GradientAttack, Noise, State, doubled, per_image, targeted
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """Steepest ascent under the norm: sign steps for linf (IFGSM; Kurakin et al. 2016, Madry et al. 2017).

    `step_size` is in units of eps.
    """

    step_size: float

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """x ← Π(x + η·steepest(∇))."""
        s["x_adv"] = threat.project(s["x_adv"] + self.step_size * threat.eps * threat.steepest(grad), s["x"])


@dataclass(frozen=True, kw_only=True)
class PGDAdam(GradientAttack):
    """Projected Adam on the raw gradient, as the paper evaluates (section 4.3; Kingma & Ba 2014).

    `learning_rate` is in units of eps and decays linearly to zero over the steps. Confident models have tiny
    gradients: Adam's usual epsilon of 1e-8 would damp them and their squares vanish in float32, so that
    `epsilon` is far smaller and the moments are float64. Pixel by pixel, Adam's steps are nearly signs, which climb
    fastest under linf alone: under l2 the second moment is that of the whole image's gradient norm.
    """

    learning_rate: float = 0.25
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-60

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """Zero moments."""
        s["m"], s["v"] = torch.zeros_like(s["x"], dtype=torch.float64), torch.zeros_like(s["x"], dtype=torch.float64)

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """x ← Π(x + lr·m̂/(√v̂ + ε)), the moments bias-corrected per image."""
        grad, i = grad.double(), s["i"].double()
        s["m"] = self.beta1 * s["m"] + (1 - self.beta1) * grad
        square = grad.square()
        if threat.norm == "l2":
            square = square.flatten(1).sum(dim=1).view(-1, *[1] * (grad.dim() - 1))
        s["v"] = self.beta2 * s["v"] + (1 - self.beta2) * square
        m = s["m"] / per_image(1 - self.beta1 ** (i + 1), grad)
        v = s["v"] / per_image(1 - self.beta2 ** (i + 1), grad)
        rate = self.learning_rate * threat.eps * per_image(1 - i / self.steps, grad)
        delta = rate * m / (v.sqrt() + self.epsilon)
        s["x_adv"] = threat.project(s["x_adv"] + delta.to(s["x_adv"].dtype), s["x"])


def ifgsm(steps: int, **settings: Any) -> PGD:
    """IFGSM with `steps` steps on the cross-entropy from a random start, which toolkits call PGD (Madry et al. 2018).

    Seven steps are the training attack, with steps of eps/4 (2/255 at eps = 8/255); otherwise 2.5·eps/steps.
    """
    size = 0.25 if steps == 7 else 2.5 / steps
    return replace(PGD(name=f"ifgsm{steps}", steps=steps, step_size=size), **settings)


def bim(steps: int, **settings: Any) -> PGD:
    """Basic iterative method: as ifgsm, with steps of 2.5·eps/steps from the image itself (Kurakin et al. 2017)."""
    return replace(PGD(name=f"bim{steps}", steps=steps, step_size=2.5 / steps, random_start=False), **settings)


def pgd_adam(steps: int, **settings: Any) -> PGDAdam:
    """PGD with `steps` Adam steps on the cross-entropy, keeping the best iterate: the paper's pgd5, pgd20, pgd500.

    The rate is eps/4, more where so few steps would not cross the ball: a pixel can travel the sum of all rates, about
    rate · (steps + 1)/2, which is at least 2·eps.
    """
    rate = max(0.25, 4 / (steps + 1))
    return replace(PGDAdam(name=f"pgd{steps}", steps=steps, learning_rate=rate, keep="best"), **settings)


def margin_pgd(steps: int, **settings: Any) -> PGD:
    """PGD with `steps` steepest steps of 2.5·eps/steps on the logit margin (Carlini & Wagner 2017)."""
    attack = PGD(name=f"margin{steps}", steps=steps, step_size=2.5 / steps, loss=losses.margin, keep="best")
    return replace(attack, **settings)


def margin_t(steps: int, *, classes: int = 9, **settings: Any) -> Chain:
    """PGD with `steps` steepest steps on the margin of each of the strongest wrong classes (Gowal et al. 2019)."""
    attack = margin_pgd(steps, name=f"margin-t{steps}", loss=losses.margin_targeted)
    return targeted(replace(attack, **settings), classes=classes)


def margin_doubled(steps: int, *, first: int = 10, patience: int = 2, **settings: Any) -> Chain:
    """PGD on the margin with 10, 20, 40, … steps, up to `steps`, until accuracy stops falling."""
    make = functools.partial(margin_pgd, **settings)
    return doubled(f"margin-doubled{steps}", make, first=first, last=steps, patience=patience)


def margin_plateau(steps: int, *, first: int = 100, patience: int = 2, **settings: Any) -> Chain:
    """As margin_doubled from 100 steps on, until two doublings break nothing: the last attack of a cascade."""
    make = functools.partial(margin_pgd, **settings)
    return doubled(f"margin-plateau{steps}", make, first=first, last=steps, patience=patience)
