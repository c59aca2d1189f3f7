"""A job of scoring: the model, the images in blocks, the attacks; and an attack's attempt at some of the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble_bench.attacks import Attack, engine
from ensemble_bench.attacks.engine import Budget
from ensemble_bench.data import ImageSet
from ensemble_bench.errors import AttackError, EnsembleBenchError
from ensemble_bench.evaluation.draws import Drawn
from ensemble_bench.evaluation.suite_progress import Forecast
from ensemble_bench.models.folded import Twin
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import CARRIED
from ensemble_bench.threat import ThreatModel

# Blocks bound memory and the work a kill can cost; fixed, so that a resumed evaluation repeats the same batches.
BLOCK = 1024

Array = NDArray[Any]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Carried:
    """Images (mask `fallen`) that fell at a smaller `eps` according to `record`: they fall here without an attack.

    `predictions` are the classes that they were taken for, -1 for those that stand.
    """

    eps: float
    record: str
    fallen: Bools
    predictions: Array | None = None
    name: str = CARRIED

    def settings(self) -> dict[str, Any]:
        """Its entry in a record, among the attacks."""
        return {"name": self.name, "eps": self.eps, "record": self.record}


def blocks_of(images: int) -> list[slice]:
    """So many images in blocks, in order."""
    return [slice(a, min(a + BLOCK, images)) for a in range(0, images, BLOCK)]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation to do: the model on its device, the images, and the attacks to score it with.

    An attack with a number k in `one_in` meets the nearest of the images that still stand, one in k of every block, and
    the next twice as many while it breaks some.
    """

    label: str
    model: nn.Module
    images: ImageSet
    threat: ThreatModel
    attacks: Sequence[Attack]
    cascade: bool
    one_in: Mapping[str, int] = field(default_factory=dict)
    carried: Carried | None = None
    budget: Budget
    forecast: Forecast | None = None
    twin: Twin | None = None
    """What proposes instead of the model."""
    drawn: Drawn | None = None
    """Of a model that answers at random, which `model` judges by many draws: the model itself, and further draws."""
    progress: Progress = silent

    @property
    def blocks(self) -> list[slice]:
        """The images in blocks, in order."""
        return blocks_of(len(self.images))

    def load(self, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and ids of a block, on the device (ids on the CPU)."""
        x, y = self.images.batch(block)
        return x.to(self.budget.device), y.to(self.budget.device), self.images.ids[block]


def attempt(
    job: Job,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    rows: Tensor,
    on_done: engine.OnDone,
    *,
    clean_logits: Tensor | None = None,
) -> engine.Outcome:
    """Run the attack on some rows of a block; any error in it becomes an AttackError that names the attack.

    `clean_logits` are those of the whole block, where they are known.
    """
    at = rows.to(job.budget.device)
    if len(rows) == 0:  # not every model takes an empty batch
        return engine.Outcome(x_adv=x[at], broken=y[at].bool(), steps=y[at], margin=x.new_zeros(0))
    try:
        task = engine.Task(
            model=job.model,
            x=x[at],
            y=y[at],
            threat=job.threat,
            ids=ids[rows],
            budget=job.budget,
            on_done=on_done,
            twin=None if job.twin is None else job.twin.model,
            clean_logits=None if clean_logits is None else clean_logits[at],
        )
        return attack.search(task)
    except EnsembleBenchError as error:
        if attack.name in str(error):
            raise
        raise AttackError(f"{attack.name}: {error}") from error
    except Exception as error:
        raise AttackError(f"{attack.name} failed: {type(error).__name__}: {error}") from error
