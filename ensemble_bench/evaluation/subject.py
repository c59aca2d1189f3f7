"""The subject of an evaluation: a checkpoint or a model in memory, whole or one of its parts."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ensemble_bench.attacks import engine
from ensemble_bench.data import ImageSet
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble

LOGIT = "logit"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model to score, and what is known about it; `model` is None until it has to be loaded.

    Of a checkpoint a part can be scored: the `view` "member1", "member2", …, or "logit", its members' logits averaged.
    """

    name: str
    weights_hash: str
    model: nn.Module | None = None
    info: checkpoint.CheckpointInfo | None = None
    view: str | None = None

    def meta(self, key: str) -> Any:
        """What training wrote about itself under `key`, None for a model from elsewhere."""
        return None if self.info is None else self.info.meta.get(key)

    def load(self) -> nn.Module:
        """Return the model, or the part of it in view, reading its checkpoint if it came from one."""
        if self.model is not None:
            return self.model
        assert self.info is not None
        model = checkpoint.load(self.info.path)
        if self.view is None:
            return model
        if self.view == LOGIT:
            return model.aggregate_as(LOGIT)
        return Ensemble([model.members[int(self.view.removeprefix("member")) - 1]]).eval()

    def views(self) -> "list[Subject]":
        """The parts of a checkpoint: every member on its own, and the logit average; none of a single network."""
        if self.info is None or self.info.architecture.members < 2:
            return []
        names = [f"member{i + 1}" for i in range(self.info.architecture.members)]
        names += [LOGIT] if self.info.architecture.aggregation != LOGIT else []
        return [replace(self, name=f"{self.name}#{name}", view=name) for name in names]

    @property
    def is_weighted(self) -> bool:
        """Whether a gate weights the members, or one of them is drawn at random, so that attacks for that apply."""
        if self.model is not None:
            model: Any = self.model
            return getattr(model, "gate", None) is not None or getattr(model, "aggregation", None) == "draw"
        if self.info is None or self.view not in (None, LOGIT):
            return False
        return self.info.architecture.gated or self.info.architecture.aggregation == "draw"


def of_checkpoint(info: checkpoint.CheckpointInfo) -> Subject:
    """The model of a checkpoint, to be loaded when it is needed."""
    return Subject(name=name_of(info.path), weights_hash=info.weights_hash, info=info)


def name_of(path: Path) -> str:
    """Run and checkpoint, as records name a model: "ensemble2adv-digits-tiny-s0/best"."""
    return f"{path.resolve().parent.name}/{path.stem}"


def in_memory(model: nn.Module, images: ImageSet, device: torch.device) -> Subject:
    """A model as it stands in memory: the checkpoint that it was loaded from, or something of its own."""
    if isinstance(model, Ensemble) and model.info is not None and checkpoint.is_unchanged(model):
        return Subject(
            name=name_of(model.info.path), weights_hash=model.info.weights_hash, model=model, info=model.info
        )
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    # Weights do not say what a module computes: two wrappers of one network can differ in code alone.
    x, _ = images.batch(slice(0, 64))
    with engine.frozen(model), torch.no_grad():
        logits = engine.logits_of(model, x.to(device))
    digest.update(logits.cpu().contiguous().numpy().tobytes())
    return Subject(name="model", weights_hash=f"sha256:{digest.hexdigest()}", model=model)
