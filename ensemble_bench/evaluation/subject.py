"""The subject of an evaluation: a checkpoint, a model from elsewhere or one in memory, whole or one of its parts."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_bench import registry
from ensemble_bench.data import DataSource, ImageSet
from ensemble_bench.errors import AttackError, CheckpointError, EnsembleBenchError, InvalidValueError
from ensemble_bench.models import calling, checkpoint, cost
from ensemble_bench.models.architecture import CheckpointInfo
from ensemble_bench.models.ensemble import Ensemble, as_ensemble
from ensemble_bench.models.entry import IMAGES, Entered, enter
from ensemble_bench.models.sources import ModelSource
from ensemble_bench.models.state_dict import reason

LOGIT = "logit"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model to score, with its name, hash and origin; `model` is None for a checkpoint that is not loaded yet.

    Records lie below `home`; there are none without. Of an ensemble a part can be scored: the `view` "member1",
    "member2", …, or "logit", its members' logits averaged. `entered` is what was found when the model was looked at.
    """

    name: str
    weights_hash: str
    model: nn.Module | None = None
    info: CheckpointInfo | None = None
    home: Path | None = None
    view: str | None = None
    entered: Entered | None = None

    def meta(self, key: str) -> Any:
        """Entry `key` of what training wrote into the checkpoint, None for a model from elsewhere."""
        return None if self.info is None else self.info.meta.get(key)

    def load(self) -> nn.Module:
        """Return the model, or the part of it in view, reading its checkpoint if that has not been read."""
        model = self.model
        if model is None:
            assert self.info is not None
            model = checkpoint.load(self.info.path)
        if self.view is None:
            return model
        assert isinstance(model, Ensemble)
        if self.view == LOGIT:
            return model.aggregate_as(LOGIT)
        member = model.members[int(self.view.removeprefix("member")) - 1]
        return member if isinstance(member, Ensemble) else Ensemble([member])

    def enter(self, images: ImageSet, device: torch.device) -> "Subject":
        """Itself, after a look at the model on a few of the images; raises AttackError, naming it, as `entry.enter`."""
        if self.entered is not None:
            return self
        x, _ = images.batch(slice(IMAGES))
        try:
            return replace(self, entered=enter(self.load().to(device), x.to(device)))
        except AttackError as error:
            raise AttackError(f"{self.name}: {error}") from None

    @property
    def is_randomised(self) -> bool:
        """Whether the model answers the same images differently, as far as is known."""
        if self.entered is not None:
            return self.entered.randomised
        return self.info is not None and self.view is None and self.info.architecture.aggregation == "draw"

    def views(self) -> "list[Subject]":
        """The parts of an ensemble: every member on its own, and the logit average; none of a single network."""
        if isinstance(self.model, Ensemble):
            members, aggregation = len(self.model.members), self.model.aggregation
        elif self.info is not None:
            members, aggregation = self.info.architecture.members, self.info.architecture.aggregation
        else:
            return []
        if members < 2:
            return []
        names = [f"member{i + 1}" for i in range(members)] + ([LOGIT] if aggregation != LOGIT else [])
        return [replace(self, name=f"{self.name}#{name}", view=name, entered=None) for name in names]

    @property
    def has_members(self) -> bool:
        """Whether there is more than one network to attack."""
        if self.model is not None:
            return len(as_ensemble(self.load()).members) > 1
        return self.info is not None and self.view in (None, LOGIT) and self.info.architecture.members > 1

    @property
    def is_weighted(self) -> bool:
        """Whether a gate weights the members, or one of them is drawn at random, so that attacks for that apply."""
        if self.model is not None:
            model = as_ensemble(self.load())
            return model.gate is not None or model.aggregation == "draw"
        if self.info is None or self.view not in (None, LOGIT):
            return False
        return self.info.architecture.gated or self.info.architecture.aggregation == "draw"


def of_checkpoint(info: CheckpointInfo) -> Subject:
    """The model of a checkpoint, to be loaded when it is needed."""
    return Subject(name=name_of(info.path), weights_hash=info.weights_hash, info=info, home=info.path.parent)


def of_source(source: ModelSource, data: DataSource, *, runs: Path) -> Subject:
    """A checkpoint of ours, or a model from elsewhere, whose records lie below `runs` in a folder of its own.

    Raises EnsembleBenchError, naming the model, when one from elsewhere cannot be loaded, fails on images of the data
    set, or tells another number of classes apart.
    """
    if source.info is not None:
        return of_checkpoint(source.info)
    model = source.load(data)
    if not cost.parameters(model):
        raise InvalidValueError(f"{source.text}: has no parameters: its networks must be submodules of it")
    try:
        logits = _answers(model, data.image_shape)
    except Exception as error:  # whatever foreign code does with images that it is not made for
        told = str(error) if isinstance(error, EnsembleBenchError) else reason(error)
        raise CheckpointError(f"{source.text}: on images of shape {data.image_shape}: {told}") from error
    if logits.shape[1] != len(data.classes):
        raise InvalidValueError(
            f"{source.text}: tells {logits.shape[1]} classes apart, {data.name} has {len(data.classes)}"
        )
    home = registry.models_folder(runs, source.text)
    if (info := model.info) and checkpoint.is_unchanged(model):  # a published one, whose folder is not for records
        return Subject(name=name_of(info.path), weights_hash=info.weights_hash, model=model, info=info, home=home)
    return Subject(name=registry.homeless(source.text), weights_hash=_hash(model, logits), model=model, home=home)


def name_of(path: Path) -> str:
    """Run and checkpoint, as records name a model: "ensemble2adv-digits-tiny-s0/best"."""
    return f"{path.resolve().parent.name}/{path.stem}"


def in_memory(model: nn.Module, images: ImageSet, name: str | None = None) -> Subject:
    """A model as it stands in memory: the checkpoint that it was loaded from, or something of its own; by `name`."""
    if isinstance(model, Ensemble) and (info := model.info) is not None and checkpoint.is_unchanged(model):
        return Subject(name=name or name_of(info.path), weights_hash=info.weights_hash, model=model, info=info)
    shape = tuple(images.images.shape[1:])
    try:
        logits = _answers(model, shape)
    except EnsembleBenchError:
        raise
    except Exception as error:  # whatever foreign code does with images that it is not made for
        raise InvalidValueError(f"the model fails on images of shape {shape}: {reason(error)}") from error
    if logits.shape[1] <= (most := int(images.labels.max())):
        raise InvalidValueError(
            f"the model tells {logits.shape[1]} classes apart, {images.name} has labels up to {most}"
        )
    return Subject(name=name or "model", weights_hash=_hash(model, logits), model=model)


def _answers(model: nn.Module, image_shape: tuple[int, ...]) -> Tensor:
    """Logits of some noise, always the same, so that neither the number of images nor their order changes a hash."""
    x = torch.rand(8, *image_shape, generator=torch.Generator().manual_seed(0))
    like = next(model.parameters(), x)
    with calling.frozen(model), torch.no_grad():
        torch.manual_seed(0)  # for models that draw; `frozen` puts the generator back
        return calling.logits_of(model, x.to(like.device))


def _hash(model: nn.Module, logits: Tensor) -> str:
    """Hash of the weights, the modules' text and the logits of some noise, which stand for the code."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Tensor):
                part = part.dequantize() if part.is_quantized else part
                digest.update(f"{name} {tuple(part.shape)} {part.dtype}".encode())
                digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:  # integer layers keep more than tensors
                digest.update(f"{name} {part}".encode())
    # Weights do not say what a module computes: two wrappers of one network can differ in code alone.
    digest.update(logits.cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
