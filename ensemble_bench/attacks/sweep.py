"""Sweep: a few well-spent steps on the margin, then on one strong wrong class after the other."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks.engine import Chain, State, cosine, per_image
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class CosinePGD(PGD):
    """PGD whose step falls from `step_size`·eps to zero along half a cosine: far at first, exact in the end."""

    step_size: float = 2.0

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """x ← Π(x + η·steepest(∇)), η = step_size·eps·½(1 + cos(πt/T))."""
        size = self.step_size * threat.eps * cosine(s, self.steps)
        s["x_adv"] = threat.project(s["x_adv"] + per_image(size, grad) * threat.steepest(grad), s["x"])


def sweep(steps: int, *, classes: int = 9, family: str = "sweep", **settings: Any) -> Chain:
    """`steps` steps on the margin, then on the margin of each of the strongest wrong classes, while images stand.

    The second strongest class goes first and the strongest last: the margin to it is what the first stage ascended.
    """
    name = f"{family}{steps}"
    first = CosinePGD(name=f"{name}/margin", steps=steps, loss=losses.margin, keep="best")
    first = replace(first, **settings)
    ranks = [*range(2, classes + 1), 1]
    targeted = [replace(first, name=f"{name}/target{rank}", loss=losses.margin_targeted, target=rank) for rank in ranks]
    return Chain(name=name, stages=(first, *targeted))


def sweep_top(steps: int, *, classes: int = 3, **settings: Any) -> Chain:
    """As sweep, on the three strongest wrong classes: for images so near to a boundary that it is one of theirs."""
    return sweep(steps, classes=classes, family="sweep-top", **settings)
