"""The one loop that runs every attack: survivors only, full batches, cheap proposals, exact decisions.

An image holds a slot of the batch until it is broken or has taken its steps; then the next image takes the slot.
Nothing is spent on an image that is already broken, and results do not depend on batch size or order, because
every image carries its own iteration counter, state and noise.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ensemble_bench import losses, randomness
from ensemble_bench.attacks.engine.attack import Attack
from ensemble_bench.attacks.engine.state import Noise, State, concatenate, select, where
from ensemble_bench.attacks.engine.task import Outcome, Task, check
from ensemble_bench.attacks.engine.worker import Worker
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.models.calling import all_finite, frozen, logits_of, verdict
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.threat import ThreatModel

Loss = Callable[..., Tensor]
"""Of logits (batch, class), labels (batch), and target classes (batch) where the attack has them: a value an image."""


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An iterative white-box attack: `steps` iterations from a start, `restarts` times on the images that survive.

    The start is uniform in the ball (`random_start`) or x itself. `stop_early` scores: an image is done at its
    first misclassified iterate, and one that is misclassified to begin with is not attacked. Without it every
    image takes every step, as black-box sets and transfer need. Of the iterates of an image that was not broken,
    the "last" or the "best" (by loss) is returned, as `keep` says. Raises InvalidValueError for other values.
    """

    steps: int
    loss: Loss = losses.cross_entropy
    restarts: int = 1
    random_start: bool = True
    stop_early: bool = True
    keep: str = "last"
    target: int | None = None

    def __post_init__(self) -> None:
        for what in ("steps", "restarts", "target"):
            if (value := getattr(self, what)) is not None and value < 1:
                raise InvalidValueError(f"{self.name}: {what} is {value}: expected at least 1")
        if self.keep not in ("last", "best"):
            raise InvalidValueError(f"{self.name}: keep is {self.keep!r}: choose from last, best")

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """Add the step rule's own tensors to the state of fresh images, whose x_adv is their start."""

    def evaluate(self, model: Ensemble, x_adv: Tensor, s: State) -> tuple[Tensor, Tensor]:
        """Logits (batch, class) that decide, and the per-image value (batch) that the attack ascends."""
        logits = logits_of(model, x_adv)
        return logits, self.loss_of(logits, s)

    def loss_of(self, logits: Float[Tensor, "batch class"], s: State) -> Float[Tensor, "batch"]:
        """The attack's loss, towards the target where it has one."""
        return self.loss(logits, s["y"]) if self.target is None else self.loss(logits, s["y"], s["target"])

    def settings(self) -> dict[str, Any]:
        """Every field, and that one call of the model is behind a step, which records have always held."""
        return {**super().settings(), "draws": 1}

    @abstractmethod
    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """Move s["x_adv"], given the value and its gradient there."""

    def search(self, task: Task) -> Outcome:
        """Run the engine's loop; without `stop_early`, images misclassified to begin with are attacked too."""
        return run(self, task)


def run(attack: GradientAttack, task: Task) -> Outcome:
    """Run `attack` on all images, with its restarts."""
    x, y = task.x, task.y
    with frozen(task.model):
        worker = Worker(task.model, task.budget.batch_size, proposer=task.proposer)
        clean = worker.clean_logits(task)
        broken, margin = verdict(clean, y)
        best = _Progress.of(x, broken, margin)
        loop = _Loop(attack=attack, task=task, clean_logits=clean)
        for restart in range(attack.restarts):
            rows = (~best.broken | (not attack.stop_early)).nonzero()[:, 0]
            if attack.target is not None and attack.target >= clean.shape[1]:
                rows = rows[:0]
            found = _search(loop, restart, worker, rows)
            best.update(found, rows, always=restart == 0)
        loop.check(best.x_adv, x)
    return Outcome(
        x_adv=best.x_adv,
        broken=best.broken,
        steps=best.steps,
        margin=best.margin,
        zero_gradients=int(best.zero.sum()),
        passes=worker.passes,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Loop:
    """An attack with its task, and the model's logits of the clean images."""

    attack: GradientAttack
    task: Task
    clean_logits: Tensor

    def fresh(self, rows: Tensor, restart: int) -> State:
        """State of images that take a slot, standing at their start."""
        attack, task = self.attack, self.task
        x, ids = task.x[rows], task.ids[rows.cpu()]

        def noise(shape: tuple[int, ...], label: str = "") -> Tensor:
            stream = f"{attack.name}/{label}" if label else attack.name
            return randomness.uniform(shape, ids, seed=task.budget.seed, stream=stream, restart=restart).to(x)

        s = {"row": rows, "x": x, "y": task.y[rows], "x_adv": x, "i": torch.zeros_like(rows)}
        s["clean_logits"] = self.clean_logits[rows]
        if attack.random_start:
            s["x_adv"] = task.threat.random_start(x, noise(tuple(x.shape[1:])))
        if attack.target is not None:
            order = losses.strongest_wrong(s["clean_logits"], s["y"]) if task.targets is None else task.targets[rows]
            s["target"] = order[:, min(attack.target, order.shape[1]) - 1]
        if attack.keep == "best":
            s["best_x"] = s["x_adv"].clone()
            s["best_loss"] = x.new_full((len(rows),), -torch.inf)
            s["better"] = torch.zeros_like(rows, dtype=torch.bool)
        attack.init(s, task.threat, noise)
        return s

    def check(self, x_adv: Tensor, x: Tensor) -> None:
        """As `threat.check`, its error naming the attack."""
        check(self.attack.name, self.task.threat, x_adv, x)


@dataclass
class _Progress:
    """Working copy of an Outcome."""

    x_adv: Tensor
    broken: Tensor
    steps: Tensor
    margin: Tensor
    zero: Tensor
    """Whether the gradient at any start was exactly zero."""

    @classmethod
    def of(cls, x: Tensor, broken: Tensor, margin: Tensor) -> "_Progress":
        """Images before any step."""
        steps = torch.zeros_like(broken, dtype=torch.int64)
        return cls(x_adv=x.clone(), broken=broken, steps=steps, margin=margin, zero=torch.zeros_like(broken))

    def put(self, rows: Tensor, x_adv: Tensor, broken: Tensor, steps: Tensor, margin: Tensor) -> None:
        self.x_adv[rows], self.broken[rows], self.steps[rows], self.margin[rows] = x_adv, broken, steps, margin

    def update(self, other: "_Progress", rows: Tensor, *, always: bool) -> None:
        """Take over from `other` those of its `rows` that are further, or all; an image's steps add up."""
        further = torch.where(other.broken == self.broken, other.margin > self.margin, other.broken)
        r, steps = rows if always else rows[further[rows]], self.steps + other.steps
        self.put(r, other.x_adv[r], other.broken[r], steps[r], other.margin[r])
        self.steps[rows] = steps[rows]
        self.zero |= other.zero


def _search(loop: _Loop, restart: int, worker: Worker, waiting: Tensor) -> _Progress:
    """One restart of the attack on the rows `waiting`: the loop over slots."""
    attack, task = loop.attack, loop.task
    x, y = task.x, task.y
    found = _Progress.of(x, torch.zeros_like(y, dtype=torch.bool), x.new_zeros(len(x)))
    spent: list[State] = []
    total = len(waiting)
    s = loop.fresh(waiting[:0], restart)
    while len(waiting) + len(s["row"]):
        room = max(worker.batch_size - len(s["row"]), 0)
        if room and len(waiting):
            s = concatenate([s, loop.fresh(waiting[:room], restart)])
            waiting = waiting[room:]
        if not all_finite(s["x_adv"]):
            raise AttackError(f"{attack.name}: x_adv holds NaN or infinite pixels")
        looks_broken, value, grad = worker.propose(attack.evaluate, s, task.budget.precision)
        at_start = s["i"] == 0
        if at_start.any():
            found.zero[s["row"][at_start]] = (grad[at_start].flatten(1) == 0).all(dim=1)

        if attack.stop_early and looks_broken.any():
            broken = _confirm(loop, worker, s, looks_broken, found)
            s, value, grad = select(s, ~broken), value[~broken], grad[~broken]
        if attack.keep == "best":
            s["better"] = better = value > s["best_loss"]
            s["best_x"][better] = s["x_adv"][better]
            s["best_loss"] = torch.maximum(value, s["best_loss"])
        attack.step(s, value, grad, task.threat)
        s["i"] = s["i"] + 1
        done = s["i"] >= attack.steps
        if done.any():
            spent.append(select(s, done))
            s = select(s, ~done)
            if sum(len(part["row"]) for part in spent) >= worker.batch_size:
                _judge_spent(loop, worker, concatenate(spent), found)
                spent.clear()
        if task.on_done is not None:
            task.on_done(total - len(waiting) - len(s["row"]), int(found.broken.sum()))
    if spent:
        _judge_spent(loop, worker, concatenate(spent), found)
    return found


def _confirm(loop: _Loop, worker: Worker, s: State, looks_broken: Tensor, found: _Progress) -> Tensor:
    """Decide exactly which of the images that look broken are, enter these in `found` and return their mask."""
    t = select(s, looks_broken)
    loop.check(t["x_adv"], t["x"])
    wrong, margin = worker.decide(t["x_adv"], t["y"])
    found.put(t["row"][wrong], t["x_adv"][wrong], wrong[wrong], t["i"][wrong], margin[wrong])
    broken = looks_broken.clone()
    broken[looks_broken] = wrong
    return broken


def _judge_spent(loop: _Loop, worker: Worker, s: State, found: _Progress) -> None:
    """Decide on the images that took all their steps: at the last iterate, or at the best one where that is further."""
    loop.check(s["x_adv"], s["x"])
    if loop.attack.keep == "best":
        attack = loop.attack
        looks_broken, value = worker.look(attack.evaluate, s, loop.task.budget.precision)
        back = s["best_loss"] > value
        if attack.stop_early:  # any iterate counts, so a broken last one is final
            final = (back & looks_broken).nonzero()[:, 0]
            back[final] = ~worker.decide(s["x_adv"][final], s["y"][final])[0]
        s["x_adv"] = where(back, s["best_x"], s["x_adv"])
    wrong, margin = worker.decide(s["x_adv"], s["y"])
    found.put(s["row"], s["x_adv"], wrong, s["i"], margin)
