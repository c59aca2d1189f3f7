"""Transfer attacks: adversarial images that were made against other networks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ensemble_bench.attacks import engine
from ensemble_bench.attacks.blackbox.blackbox_set import BlackboxSet, load_blackbox
from ensemble_bench.attacks.engine import Attack
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import calling


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """The black-box attack: x_adv are the images of a black-box set (Liu et al. 2017) with the same ids.

    `path` is the set that `ensemble-bench blackbox build` wrote. Images that it does not hold are not attacked.
    Raises InvalidValueError without a set.
    """

    name: str = "blackbox"
    path: Path | str | None = None
    candidates: BlackboxSet = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.path is None:
            raise InvalidValueError(
                "blackbox needs path=, the .safetensors file that `ensemble-bench blackbox build` writes"
            )
        object.__setattr__(self, "candidates", load_blackbox(Path(self.path)))

    def settings(self) -> dict[str, Any]:
        """The set by its content hash: paths differ between machines."""
        return {"name": self.name, "hash": self.candidates.info["hash"]}

    def covers(self, ids: Int64[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
        """Images that the set holds."""
        return torch.isin(ids.cpu(), self.candidates.ids)

    def search(self, task: engine.Task) -> engine.Outcome:
        """Look up the candidates by id and decide exactly; seed and precision change nothing."""
        x, y, ids = task.x, task.y, task.ids
        covered = self.covers(ids)
        row_of = {image: row for row, image in enumerate(self.candidates.ids.tolist())}
        rows = torch.tensor([row_of[image] for image in ids[covered].tolist()], dtype=torch.int64)
        candidates = self.candidates.x_adv[rows].to(x)
        if candidates.shape[1:] != x.shape[1:]:
            shapes = f"{tuple(candidates.shape[1:])}, those under attack {tuple(x.shape[1:])}"
            raise InvalidValueError(f"{self.path}: its images have shape {shapes}")
        if not torch.equal(self.candidates.labels[rows], y[covered.to(y.device)].cpu()):
            raise InvalidValueError(f"{self.path}: its labels are not those of the images with the same ids")
        x_adv = x.clone()
        x_adv[covered.to(x.device)] = candidates
        task.threat.check(x_adv, x)
        with calling.frozen(task.model):
            worker = engine.Worker(task.model, task.budget.batch_size)
            wrong_clean, _ = calling.verdict(worker.clean_logits(task), y)
            # What is misclassified to begin with is not attacked.
            x_adv[wrong_clean] = x[wrong_clean]
            wrong, margin = worker.decide(x_adv, y)
        if task.on_done is not None:
            task.on_done(len(x), int(wrong.sum()))
        return engine.Outcome(
            x_adv=x_adv,
            broken=wrong,
            steps=torch.zeros_like(y),
            margin=margin,
            passes=worker.passes,
        )
