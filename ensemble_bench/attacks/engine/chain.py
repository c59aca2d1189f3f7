"""Chains: attacks one after the other, each on the images that still stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_bench.attacks.engine.attack import Attack
from ensemble_bench.attacks.engine.loop import GradientAttack
from ensemble_bench.attacks.engine.task import Outcome, Task
from ensemble_bench.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class Chain(Attack):
    """One attack made of several stages, named after it: "apgd-t100/target1", "apgd-t100/target2" and so on.

    With `patience` it ends after so many stages in a row that broke nothing. Raises InvalidValueError for no stages,
    or a patience below 1.
    """

    stages: Sequence[Attack]
    patience: int | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise InvalidValueError(f"{self.name}: a chain needs at least one stage")
        if self.patience is not None and self.patience < 1:
            raise InvalidValueError(f"{self.name}: patience is {self.patience}: expected at least 1")

    def settings(self) -> dict[str, Any]:
        """Patience, and the settings of every stage."""
        return {"name": self.name, "patience": self.patience, "stages": [s.settings() for s in self.stages]}

    def parts(self, model: nn.Module) -> Sequence[Attack]:
        """The stages."""
        return self.stages

    def is_over(self, broken: Sequence[int]) -> bool:
        """Whether to stop, given how many images each stage so far broke."""
        return self.patience is not None and len(broken) >= self.patience and not any(broken[-self.patience :])

    def search(self, task: Task) -> Outcome:
        """Run the stages; an image's steps add up over them, and its x_adv is the one of the largest margin."""
        best: Outcome | None = None
        rows, broke = torch.arange(len(task.x), device=task.x.device), list[int]()
        for stage in self.parts(task.model):
            found = stage.search(task.of(rows))
            best = found if best is None else merge(best, found, rows)
            moved = (found.x_adv != task.x[rows]).flatten(1).any(dim=1)  # not misclassified to begin with
            broke.append(int((found.broken & moved).sum()))
            rows = (~best.broken).nonzero()[:, 0]
            if len(rows) == 0 or self.is_over(broke):
                break
        assert best is not None  # there is at least one stage
        return best


def merge(best: Outcome, found: Outcome, rows: Tensor) -> Outcome:
    """`best`, brought up to date with the outcome `found` of a further stage on the images `rows`."""
    gain = found.broken | (found.margin > best.margin[rows])
    x_adv, margin = best.x_adv.clone(), best.margin.clone()
    broken, steps = best.broken.clone(), best.steps.clone()
    x_adv[rows[gain]], margin[rows[gain]] = found.x_adv[gain], found.margin[gain]
    broken[rows] = found.broken
    steps[rows] += found.steps
    return Outcome(
        x_adv=x_adv,
        broken=broken,
        steps=steps,
        margin=margin,
        zero_gradients=max(best.zero_gradients, found.zero_gradients),  # mostly the same images again
        passes=best.passes + found.passes,
    )


def targeted(attack: GradientAttack, *, classes: int = 9) -> Chain:
    """`attack`, whose loss takes a target, at each of the `classes` strongest wrong classes in turn."""
    stages = [replace(attack, name=f"{attack.name}/target{t}", target=t) for t in range(1, classes + 1)]
    return Chain(name=attack.name, stages=tuple(stages))


def doubled(name: str, make: Callable[..., Attack], *, first: int, last: int, patience: int = 1) -> Chain:
    """`make(steps, name=…)` of `first` steps, of twice as many, and so on up to `last`, until nothing more breaks."""
    steps = [min(first, last)]
    while 2 * steps[-1] <= last:
        steps.append(2 * steps[-1])
    return Chain(name=name, stages=tuple(make(n, name=f"{name}/{n}") for n in steps), patience=patience)
