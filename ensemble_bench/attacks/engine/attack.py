"""The base class of attacks: an attack proposes adversarial images, the engine decides which are broken."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ensemble_bench.attacks.engine.task import Budget, OnDone, Outcome, Task, validate
from ensemble_bench.errors import AttackError, check_kind
from ensemble_bench.models.called import as_module
from ensemble_bench.models.entry import entered_once
from ensemble_bench.models.folded import twin_of
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search for adversarial images: `attack(model, x, y, threat, seed=0)` returns x_adv.

    An attack of another package that follows no gradient sets `gradient_free`, so that a record warns of masked
    gradients where it breaks images that the others left standing.
    """

    gradient_free: ClassVar[bool] = False
    name: str

    @abstractmethod
    def search(self, task: Task) -> Outcome:
        """Run on a task; images that are misclassified to begin with are not attacked, and count as broken."""

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
        on_done: OnDone | None = None,
    ) -> Outcome:
        """As calling the attack, with the verdict on every image; `on_done` is called as images are finished.

        Of a model that answers at random an image is broken when another class has more of many draws than the right.
        """
        model = as_module(model)
        for what, value, kind in (("x", x, Tensor), ("y", y, Tensor)):
            check_kind(what, value, kind)
        if ids is not None:
            check_kind("ids", ids, Tensor)
        check_kind("threat", threat, ThreatModel)
        with torch.inference_mode(False):
            # What was made in inference mode takes part in no gradient; a copy does.
            x, y = (t.clone() if t.is_inference() else t for t in (x, y))
            ids = torch.arange(x.shape[:1].numel()) if ids is None else ids.cpu()
            validate(x, y, ids)
            budget = Budget(seed=seed, batch_size=batch_size, precision=precision, device=x.device)
            entered = entered_once(model, x)
            task = Task(
                model=entered.judge,
                x=x,
                y=y,
                threat=threat,
                ids=ids,
                budget=budget,
                on_done=on_done,
                twin=twin_of(entered.climbed, x).model,
            )
            try:
                return self.search(task)
            except AttackError as error:
                if not entered.no_gradient:
                    raise
                raise AttackError(f"{self.name}: the model has no gradient: {entered.no_gradient}") from error

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
        """Adversarial images for `x` in [0, 1] with labels `y`; the model's state is the same afterwards.

        `ids` names the images to the random generator (default 0, 1, …): the same id, seed and attack give the
        same start in any batch. `precision` "bf16" searches in bfloat16; verdicts are always exact. The model is
        looked at beforehand, once, as in an evaluation (models/entry.py). Raises AttackError for a model that this
        refuses and for logits or gradients that are not finite, InvalidValueError for images or labels out of range.
        """
        return self.run(model, x, y, threat, seed=seed, ids=ids, batch_size=batch_size, precision=precision).x_adv

    def covers(self, ids: Int64[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
        """Images, by id, that the attack can try: all, unless it holds candidates for some only."""
        return torch.ones_like(ids, dtype=torch.bool)

    def parts(self, model: nn.Module) -> "Sequence[Attack]":
        """Stages that a suite runs and records one by one, each on the images that still stand."""
        return (self,)

    def settings(self) -> dict[str, Any]:
        """Every field, as records hold them (functions by name), and `gradient_free` where it holds."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"gradient_free": True} if self.gradient_free else {}
        return {k: v.__name__ if callable(v) else v for k, v in values.items()}
