"""MALT: wrong classes in the order in which a linear model would reach them (Melamed et al., NeurIPS 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.attacks import engine
from ensemble_bench.attacks.apgd import APGD
from ensemble_bench.attacks.arc import linearised
from ensemble_bench.attacks.engine import Attack, Chain, Worker, targeted
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import calling


@dataclass(frozen=True, kw_only=True)
class MALT(Chain):
    """A chain whose stages have targets, on classes in ascending order of (z_y − z_j)/‖∇(z_y − z_j)‖₁.

    Computed once, at the clean image, for the `candidates` strongest wrong classes (arXiv 2407.02240). Under l2 the
    norm is ‖·‖₂. Raises InvalidValueError for fewer than one candidate.
    """

    candidates: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise InvalidValueError(f"{self.name}: candidates is {self.candidates}: expected at least 1")

    def settings(self) -> dict[str, Any]:
        """Those of a chain, and how many classes are looked at."""
        return {**super().settings(), "candidates": self.candidates}

    def parts(self, model: nn.Module) -> Sequence[Attack]:
        """Itself: the classes are ranked once for all stages."""
        return (self,)

    def search(self, task: engine.Task) -> engine.Outcome:
        """Rank the classes of every image, then run the chain."""

        def rank(rows: slice) -> tuple[Tensor, ...]:
            x, y = task.x[rows].detach().requires_grad_(), task.y[rows]
            with torch.enable_grad():
                logits = calling.logits_of(worker.proposer, x)
                wrong = losses.strongest_wrong(logits.detach(), y)[:, : min(self.candidates, logits.shape[1] - 1)]
                gaps = logits.gather(1, wrong) - logits.gather(1, y[:, None])
            worker.passes += worker.calls * len(x) * (1 + wrong.shape[1])
            distances = torch.stack([linearised(gap, x, task.threat)[2] for gap in gaps.unbind(dim=1)], dim=1)
            return (wrong.gather(1, distances.argsort(dim=1, stable=True)),)

        with calling.frozen(task.model):
            worker = Worker(task.model, task.budget.batch_size, proposer=task.proposer)
            (order,) = worker.map(rank, len(task.x))
        outcome = Chain(name=self.name, stages=self.stages).search(replace(task, targets=order))
        return replace(outcome, passes=outcome.passes + worker.passes)


def malt(steps: int, *, classes: int = 9, **settings: Any) -> MALT:
    """Targeted Auto-PGD with `steps` steps at each of `classes` classes in MALT's order, while images stand."""
    attack = APGD(name=f"malt{steps}", steps=steps, loss=losses.dlr_targeted)
    chain = targeted(replace(attack, **settings), classes=classes)
    return MALT(name=chain.name, stages=chain.stages)
