"""Models by a text: our checkpoints, published models, the user's own code, state_dict files, joins of these."""

import importlib
import operator
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ensemble_bench import data, registry
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, EnsembleBenchError, InvalidValueError, UnknownNameError
from ensemble_bench.kinds import takes
from ensemble_bench.models import checkpoint, state_dict
from ensemble_bench.models.architecture import Architecture, CheckpointInfo
from ensemble_bench.models.build import skeleton
from ensemble_bench.models.calling import to_eval
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.normalise import Normalise

NORMALISE = ("dataset", "pretrained", "none")
FORMS = (
    "a run folder, a .safetensors file, zoo:NAME, robustbench:NAME, timm:NAME, torchvision:NAME, hf:NAME, "
    "package.module:attribute, a state_dict file with its arch, or several of these joined by plus signs"
)
ARCHITECTURES = "wrn-16-4 (depth, width), small_cnn-0.5 (width), preact_resnet18, timm:NAME, package.module:attribute"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model whose weights are not read yet.

    `meta` holds the "dataset" and the "threat" that it was trained for, if they are known; "threat" is None for a join
    whose parts differ in it. `info` is given for a checkpoint of ours. `read` makes the module for a data set, or for
    None if the data set is unknown.
    """

    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    info: CheckpointInfo | None = None
    read: Callable[[DataSource | None], nn.Module] = field(repr=False)
    takes: tuple[str, ...] = ()
    """Those of the options "arch" and "normalise" that it uses."""

    def load(self, dataset: DataSource | None) -> Ensemble:
        """The model in eval mode on the CPU; the global random state stays as it is. Raises EnsembleBenchError."""
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            model = self.read(dataset)
        model = model if isinstance(model, Ensemble) else Ensemble([model])
        to_eval(model)
        return model


@takes
def load(
    source: str | Path,
    *,
    arch: str | None = None,
    normalise: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    model_dir: str | Path = "models",
) -> Ensemble:
    """Model in eval mode on the CPU: images in [0, 1] to the log of the mean member probability.

    `source` is a run folder (its averaged, else its best, else its last checkpoint), a .safetensors file, zoo:NAME (a
    published model), robustbench:NAME or robustbench:L2/NAME (weights in `model_dir`), timm:NAME or torchvision:NAME
    (with ?random behind it: random weights), hf:NAME (an image classifier of the Hugging Face hub, or of a folder that
    its library saved), package.module:attribute (a module, or a function without arguments that returns one: this runs
    your own code), a state_dict file with its `arch`, or several of these joined by plus signs, whose probabilities are
    averaged. `normalise` names the mean and std that images are normalised by before a network of `arch` or of your
    own: those of the "dataset" (the default for backbones of ours), those that it was "pretrained" with (for timm's) or
    "none" (for your own). `dataset` and `data_dir` are needed for a model that takes its number of classes, its mean or
    its std from the data set. Raises EnsembleBenchError, in one line, for anything that is missing, damaged or does not
    fit.
    """
    model = describe(source, arch=arch, normalise=normalise, model_dir=model_dir)
    return model.load(None if dataset is None else data.open_source(dataset, data_dir))


def describe(
    source: str | Path, *, arch: str | None = None, normalise: str | None = None, model_dir: str | Path = "models"
) -> ModelSource:
    """The model that `source` names, as in `load`, without reading its weights; raises as `load`."""
    text = str(source)
    if normalise not in (None, *NORMALISE):
        raise UnknownNameError("normalise", str(normalise), NORMALISE)
    parts = [_part(part, arch, normalise, Path(model_dir)) for part in split(text)]
    for option, value in (("arch", arch), ("normalise", normalise)):
        if value is not None and not any(option in part.takes for part in parts):
            users = "a state_dict file" + (" or package.module:attribute" if option == "normalise" else "")
            raise InvalidValueError(f"{option} is {value!r}, but {text} takes none: it is for {users}")
    return parts[0] if len(parts) == 1 else _join(text, parts)


def split(text: str) -> list[str]:
    """The parts of "A+B"; an existing path with a plus sign is one part. Raises InvalidValueError for an empty part."""
    tokens, parts = text.split("+"), []
    while tokens:
        sizes = range(len(tokens), 0, -1)
        size = next((size for size in sizes if os.path.exists("+".join(tokens[:size]))), 1)
        parts.append("+".join(tokens[:size]))
        tokens = tokens[size:]
    if not all(parts):
        raise InvalidValueError(f"model {text!r} has an empty part: expected {FORMS}")
    return parts


def _part(text: str, arch: str | None, normalise: str | None, folder: Path) -> ModelSource:
    """One model, by the form of its text; an existing file or folder comes first."""
    path, (kind, colon, name) = Path(text), text.partition(":")
    if os.path.exists(text):
        # With an arch a file may have any name: w.pth.tar, w.ckpt, w.
        may_be_weights = arch is not None or path.suffix in state_dict.SUFFIXES
        if path.is_dir() and state_dict.is_of_transformers(path):
            return _published(text, "hf", text, folder)
        if path.is_dir() or _is_described(path) or not may_be_weights:
            return _checkpoint(path)
        return _state_dict(path, arch, normalise)
    if colon and kind in registry.MODEL_SOURCES:
        return _published(text, kind, name, folder)
    if _is_code(text):
        return ModelSource(text=text, read=partial(_from_code, text, normalise), takes=("normalise",))
    raise CheckpointError(f"{text}: does not exist, expected {FORMS}")


def _join(text: str, parts: list[ModelSource]) -> ModelSource:
    """One ensemble of whole models, each with its own aggregation inside."""
    datasets = {part.meta["dataset"] for part in parts if part.meta.get("dataset")}
    threats = [part.meta["threat"] for part in parts if part.meta.get("threat")]
    meta: dict[str, Any] = {"dataset": datasets.pop()} if len(datasets) == 1 else {}
    if threats:
        meta["threat"] = threats[0] if all(threat == threats[0] for threat in threats) else None
    return ModelSource(text=text, meta=meta, read=lambda dataset: Ensemble([part.load(dataset) for part in parts]))


def _checkpoint(path: Path) -> ModelSource:
    info = checkpoint.read_info(path)
    return ModelSource(text=str(path), meta=info.meta, info=info, read=lambda _: checkpoint.load(info.path))


def _is_described(path: Path) -> bool:
    """Whether a file is a checkpoint of ours, with its description beside it."""
    return path.suffix == checkpoint.SUFFIX and any(
        path.with_suffix(suffix).exists() for suffix in (".json", ".json.pending")
    )


def _published(text: str, kind: str, name: str, folder: Path) -> ModelSource:
    """A model that a library publishes: its adapter has meta(name) and load_model(name, *, folder, data)."""
    library = _library(kind)
    return ModelSource(
        text=text,
        meta=library.meta(name),
        read=lambda dataset: library.load_model(name, folder=folder, data=dataset),
    )


def _library(kind: str) -> Any:
    return importlib.import_module(registry.MODEL_SOURCES[kind])


def _state_dict(path: Path, arch: str | None, normalise: str | None) -> ModelSource:
    if arch is None:
        ours = path.suffix == checkpoint.SUFFIX
        why = f"{path.stem}.json is missing" if ours else "pickles are never loaded as checkpoints"
        raise CheckpointError(f"{path}: {why}; a state_dict needs --arch, such as {ARCHITECTURES}")

    def read(dataset: DataSource | None) -> nn.Module:
        network, default = _network(arch, dataset)
        state_dict.fill(network, state_dict.read(path), path)
        return _normalised(network, normalise or default, dataset)

    return ModelSource(text=str(path), read=read, takes=("arch", "normalise"))


def _network(arch: str, dataset: DataSource | None) -> tuple[nn.Module, str]:
    """The network that `arch` names, not yet initialised, and the default of `normalise` for it."""
    kind, _, name = arch.partition(":")
    if kind != "timm" and _is_code(arch):
        return _own(arch), "none"
    if dataset is None:
        raise InvalidValueError(f"arch {arch} needs a number of classes: pass the dataset that it is for")
    if kind != "timm":
        return _backbone(arch, dataset), "dataset"
    return _library(kind).architecture(
        name, classes=len(dataset.classes), channels=dataset.image_shape[0]
    ), "pretrained"


def _backbone(arch: str, dataset: DataSource) -> nn.Module:
    """A backbone of ours by its name, with its depth if it is a wide ResNet, and its width: "wrn-16-4"."""
    known = registry.names("backbone")
    name = max((backbone for backbone in known if f"{arch}-".startswith(f"{backbone}-")), key=len, default="")
    sizes = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+(?:\.[0-9]+)?)", arch.removeprefix(name).removeprefix("-") or "1")
    if not name or sizes is None or (sizes[1] is None) == (name == "wrn"):
        examples = ["wrn-16-4" if backbone == "wrn" else backbone for backbone in known]
        raise UnknownNameError("architecture", arch, [*examples, "timm:NAME", "package.module:attribute"])
    architecture = Architecture(
        backbone=name,
        depth=int(sizes[1]) if sizes[1] else None,
        width=float(sizes[2]),
        classes=len(dataset.classes),
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
    )
    return skeleton(architecture).members[0].get_submodule("network")


def _normalised(network: nn.Module, by: str, dataset: DataSource | None) -> nn.Module:
    """`network` behind a normalisation by "dataset", "pretrained" or "none"; raises InvalidValueError if unknown."""
    if by == "none":
        return network
    if by == "dataset":
        if dataset is None:
            raise InvalidValueError("normalise by dataset needs its mean and std: pass the dataset")
        return nn.Sequential(Normalise(dataset.mean, dataset.std), network)
    settings = getattr(network, "pretrained_cfg", None)
    if not isinstance(settings, Mapping):
        raise InvalidValueError(f"normalise is 'pretrained', but {type(network).__name__} is no network of timm")
    return nn.Sequential(Normalise(settings["mean"], settings["std"]), network)


def _is_code(text: str) -> bool:
    """Whether a text has the form package.module:attribute."""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", text) is not None


def _own(text: str) -> nn.Module:
    """The module at package.module:attribute, or the one that a function there returns.

    Runs the user's own code, also from the current folder. Raises CheckpointError for any exception in it, and
    InvalidValueError for anything but a module.
    """
    name, _, attribute = text.partition(":")
    path = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        value = operator.attrgetter(attribute)(importlib.import_module(name))
        made = value if isinstance(value, nn.Module) or not callable(value) else value()
    except EnsembleBenchError:
        raise
    except (Exception, SystemExit) as error:
        unknown = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        hint = f" (expected {FORMS})" if unknown else ""
        raise CheckpointError(f"{text}: {state_dict.reason(error)}{hint}") from error
    finally:
        sys.path[:] = path
    if not isinstance(made, nn.Module):
        raise InvalidValueError(
            f"{text} gives a {type(made).__name__}: expected torch.nn.Module, or a function without arguments for one"
        )
    return made


def _from_code(text: str, normalise: str | None, dataset: DataSource | None) -> nn.Module:
    return _normalised(_own(text), normalise or "none", dataset)
