"""What an attack is: a start, a loss to ascend and a step rule; the engine runs it and decides what counts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.attacks import engine
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.threat import ThreatModel

Loss = Callable[..., Tensor]
"""Of logits (batch, class), labels (batch), and target classes (batch) where the attack has them: a value an image."""
State = dict[str, Tensor]
"""Row-aligned tensors of the images under attack. Always "x", "y", "x_adv" and "i" (iterations done);
"clean_logits" (batch, class); "target" (batch) where the attack has one; "best_x", "best_loss" and "better" (x_adv is
the best so far) where it keeps its best iterate; whatever else its step rule remembers."""


class Noise(Protocol):
    """Noise uniform in [-1, 1) of shape (batch, *shape) for the images at hand, the same in any batch.

    An attack that draws twice gives each draw a `label` of its own.
    """

    def __call__(self, shape: tuple[int, ...], label: str = "") -> Tensor: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Anything that proposes adversarial images; call it as `attack(model, x, y, threat, seed=0)` to get x_adv.

    An attack of another package that follows no gradient says so in `gradient_free`, so that a record warns of masked
    gradients where it breaks what others missed.
    """

    gradient_free: ClassVar[bool] = False
    name: str

    @abstractmethod
    def search(self, task: engine.Task) -> engine.Outcome:
        """Look for adversarial images; what is misclassified to begin with is not attacked, and counts as broken."""

    def run(
        self,
        model: nn.Module,
        x: Float[Tensor, "batch *image"],
        y: Int64[Tensor, "batch"],
        threat: ThreatModel,
        *,
        seed: int = 0,
        ids: Int64[Tensor, "batch"] | None = None,
        batch_size: int = 128,
        precision: str = "float32",
        on_done: engine.OnDone | None = None,
    ) -> engine.Outcome:
        """As calling the attack, with the verdict on every image; `on_done` hears of its progress."""
        task = engine.Task(
            model=model,
            x=x,
            y=y,
            threat=threat,
            seed=seed,
            ids=torch.arange(len(x)) if ids is None else ids.cpu(),
            batch_size=batch_size,
            precision=precision,
            on_done=on_done,
        )
        return self.search(task)

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "batch *image"],
        y: Int64[Tensor, "batch"],
        threat: ThreatModel,
        *,
        seed: int = 0,
        ids: Int64[Tensor, "batch"] | None = None,
        batch_size: int = 128,
        precision: str = "float32",
    ) -> Float[Tensor, "batch *image"]:
        """Adversarial images for `x` in [0, 1] with labels `y`; the model's state is left as it was found.

        `ids` names the images to the random generator (default 0, 1, …): the same id, seed and attack give the
        same start in any batch. `precision` "bf16" searches in bfloat16; verdicts are always exact. Raises
        AttackError for logits or gradients that are not finite, InvalidValueError for images or labels out of range.
        """
        return self.run(model, x, y, threat, seed=seed, ids=ids, batch_size=batch_size, precision=precision).x_adv

    def covers(self, ids: Int64[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
        """Images, by id, that the attack can try: all, unless it holds candidates for some only."""
        return torch.ones_like(ids, dtype=torch.bool)

    def parts(self, model: nn.Module) -> "Sequence[Attack]":
        """Stages that a suite runs and writes down one by one, each on the images that those before left standing."""
        return (self,)

    def settings(self) -> dict[str, Any]:
        """Every field, as records hold them (functions by name), and `gradient_free` where it holds."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"gradient_free": True} if self.gradient_free else {}
        return {k: v.__name__ if callable(v) else v for k, v in values.items()}


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
    draws: int = 1

    def __post_init__(self) -> None:
        for what in ("steps", "restarts", "target", "draws"):
            if (value := getattr(self, what)) is not None and value < 1:
                raise InvalidValueError(f"{self.name}: {what} is {value}: expected at least 1")
        if self.keep not in ("last", "best"):
            raise InvalidValueError(f"{self.name}: keep is {self.keep!r}: choose from last, best")

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """Add to the state of fresh images what the step rule remembers; they already stand at their start."""

    def evaluate(self, model: nn.Module, x_adv: Tensor, s: State) -> tuple[Tensor, Tensor]:
        """Logits (batch, class) that decide, and the per-image value (batch) that the attack ascends."""
        logits = engine.logits_of(model, x_adv)
        return logits, self.loss(logits, s["y"], *([] if self.target is None else [s["target"]]))

    @abstractmethod
    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """Move s["x_adv"], given the value and its gradient there."""

    def search(self, task: engine.Task) -> engine.Outcome:
        """Run the engine's loop; with `stop_early` off, what is misclassified to begin with is attacked too."""
        return engine.run(self, task)


def per_image(v: Tensor, like: Tensor) -> Tensor:
    """Shape (batch,) values to broadcast against images, in their dtype."""
    return v.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def cosine(s: State, steps: int) -> Tensor:
    """½(1 + cos(πt/T)) at the t-th of T steps of every image (batch): from 1 down to 0.

    In float64: a float32 cosine depends on its place in the batch.
    """
    return (1 + (s["i"].double() * math.pi / steps).cos()) / 2


def where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Rows of `a` where `mask` (batch,) holds, else rows of `b`."""
    return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)
