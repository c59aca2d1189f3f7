"""Models from anywhere: our checkpoints, published models, the user's own code, state_dict files, joins of these."""

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
from ensemble_bench.models import checkpoint, state_dict
from ensemble_bench.models.architecture import Architecture, CheckpointInfo
from ensemble_bench.models.build import skeleton
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.normalise import Normalise

NORMALISE = ("dataset", "pretrained", "none")
FORMS = (
    "a run folder, a .safetensors file, robustbench:NAME, timm:NAME, package.module:attribute, a state_dict file with "
    "its arch, or several of these joined by plus signs"
)
ARCHITECTURES = "wrn-16-4 (depth, width), small_cnn-0.5 (width), preact_resnet18, timm:NAME, package.module:attribute"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is known of a model before its weights are read.

    `meta` holds, where they are known, the "dataset" and the "threat" that it was trained for; "threat" is None where
    those of a join differ. `info` is that of a checkpoint of ours on its own. `read` makes the module, given the data
    set that it is for, if that is known.
    """

    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    info: CheckpointInfo | None = None
    read: Callable[[DataSource | None], nn.Module] = field(repr=False)
    takes: tuple[str, ...] = ()
    """Which of the options "arch" and "normalise" mean anything to it."""

    def load(self, source: DataSource | None) -> Ensemble:
        """The model in eval mode on the CPU; the global random state stays as it is. Raises EnsembleBenchError."""
        with torch.random.fork_rng(devices=[]):
            model = self.read(source)
        return (model if isinstance(model, Ensemble) else Ensemble([model])).eval()


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

    `source` is a run folder (its best, else its last checkpoint), a .safetensors file, robustbench:NAME or
    robustbench:L2/NAME (weights in `model_dir`), timm:NAME, package.module:attribute (a module, or a function without
    arguments that returns one: this runs your own code), a state_dict file with its `arch`, or several of these joined
    by plus signs, whose probabilities are averaged. `normalise` is what images are normalised by in front of a network
    of `arch` or of your own: "dataset" (the default for backbones of ours), "pretrained" (for timm's) or "none" (for
    your own). `dataset` and `data_dir` are needed where the number of classes, the mean or the std of a data set is.
    Raises EnsembleBenchError, in one line, for anything that is missing, damaged or does not fit.
    """
    found = describe(source, arch=arch, normalise=normalise, model_dir=model_dir)
    return found.load(None if dataset is None else data.open_source(dataset, data_dir))


def describe(
    source: str | Path, *, arch: str | None = None, normalise: str | None = None, model_dir: str | Path = "models"
) -> Source:
    """What `source` stands for, as `load` takes it, without reading weights; raises as `load`."""
    text = str(source)
    if normalise not in (None, *NORMALISE):
        raise UnknownNameError("normalise", str(normalise), NORMALISE)
    parts = [_part(part, arch, normalise, Path(model_dir)) for part in split(text)]
    for option, value in (("arch", arch), ("normalise", normalise)):
        if value is not None and not any(option in part.takes for part in parts):
            meant = "a state_dict file" + (" or package.module:attribute" if option == "normalise" else "")
            raise InvalidValueError(f"{option} is {value!r}, but {text} takes none: it is for {meant}")
    return parts[0] if len(parts) == 1 else _join(text, parts)


def split(text: str) -> list[str]:
    """Split "A+B" into its parts; a plus sign of an existing path stays. Raises InvalidValueError for an empty part."""
    tokens, parts = text.split("+"), []
    while tokens:
        sizes = range(len(tokens), 0, -1)
        size = next((size for size in sizes if os.path.exists("+".join(tokens[:size]))), 1)
        parts.append("+".join(tokens[:size]))
        tokens = tokens[size:]
    if not all(parts):
        raise InvalidValueError(f"model {text!r} has an empty part: expected {FORMS}")
    return parts


def _part(text: str, arch: str | None, normalise: str | None, folder: Path) -> Source:
    """One model, by the form of its text; what exists as a file or folder is that."""
    path, (kind, colon, name) = Path(text), text.partition(":")
    if os.path.exists(text):
        if path.suffix not in state_dict.SUFFIXES or path.is_dir() or _is_described(path):
            return _checkpoint(path)
        return _state_dict(path, arch, normalise)
    if colon and kind in registry.MODEL_SOURCES:
        return _published(text, kind, name, folder)
    if _is_code(text):
        return Source(text=text, read=partial(_from_code, text, normalise), takes=("normalise",))
    raise CheckpointError(f"{text}: does not exist, expected {FORMS}")


def _join(text: str, parts: list[Source]) -> Source:
    """One ensemble of whole models, each with its own aggregation inside."""
    datasets = {part.meta["dataset"] for part in parts if part.meta.get("dataset")}
    threats = [part.meta["threat"] for part in parts if part.meta.get("threat")]
    meta: dict[str, Any] = {"dataset": datasets.pop()} if len(datasets) == 1 else {}
    if threats:
        meta["threat"] = threats[0] if all(threat == threats[0] for threat in threats) else None
    return Source(text=text, meta=meta, read=lambda source: Ensemble([part.load(source) for part in parts]))


def _checkpoint(path: Path) -> Source:
    info = checkpoint.read_info(path)
    return Source(text=str(path), meta=info.meta, info=info, read=lambda _: checkpoint.load(info.path))


def _is_described(path: Path) -> bool:
    """Whether a file is a checkpoint of ours, which lies beside its description."""
    return path.suffix == checkpoint.SUFFIX and any(
        path.with_suffix(suffix).exists() for suffix in (".json", ".json.pending")
    )


def _published(text: str, kind: str, name: str, folder: Path) -> Source:
    """A model that a library publishes: its adapter has meta(name) and load_model(name, *, folder, classes)."""
    library = _library(kind)
    return Source(
        text=text,
        meta=library.meta(name),
        read=lambda source: library.load_model(name, folder=folder, classes=source and len(source.classes)),
    )


def _library(kind: str) -> Any:
    return importlib.import_module(registry.MODEL_SOURCES[kind])


def _state_dict(path: Path, arch: str | None, normalise: str | None) -> Source:
    if arch is None:
        ours = path.suffix == checkpoint.SUFFIX
        why = f"{path.stem}.json is missing" if ours else "pickles are never loaded as checkpoints"
        raise CheckpointError(f"{path}: {why}; a state_dict needs --arch, such as {ARCHITECTURES}")

    def read(source: DataSource | None) -> nn.Module:
        network, default = _network(arch, source)
        state_dict.fill(network, state_dict.read(path), path)
        return _normalised(network, normalise or default, source)

    return Source(text=str(path), read=read, takes=("arch", "normalise"))


def _network(arch: str, source: DataSource | None) -> tuple[nn.Module, str]:
    """The network that `arch` names, its weights of no meaning, and the default of `normalise` for it."""
    kind, _, name = arch.partition(":")
    if kind != "timm" and _is_code(arch):
        return _own(arch), "none"
    if source is None:
        raise InvalidValueError(f"arch {arch} needs a number of classes: pass the dataset that it is for")
    if kind != "timm":
        return _backbone(arch, source), "dataset"
    return _library(kind).architecture(name, classes=len(source.classes), channels=source.image_shape[0]), "pretrained"


def _backbone(arch: str, source: DataSource) -> nn.Module:
    """A backbone of ours by its name, with its depth if it is a wide ResNet, and its width: "wrn-16-4"."""
    known = registry.names("backbone")
    name = max((backbone for backbone in known if f"{arch}-".startswith(f"{backbone}-")), key=len, default="")
    sizes = re.fullmatch(r"(?:(\d+)-)?(\d+(?:\.\d+)?)", arch.removeprefix(name).removeprefix("-") or "1")
    if not name or sizes is None or (sizes[1] is None) == (name == "wrn"):
        shown = ["wrn-16-4" if backbone == "wrn" else backbone for backbone in known]
        raise UnknownNameError("architecture", arch, [*shown, "timm:NAME", "package.module:attribute"])
    architecture = Architecture(
        backbone=name,
        depth=int(sizes[1]) if sizes[1] else None,
        width=float(sizes[2]),
        classes=len(source.classes),
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
    )
    return skeleton(architecture).members[0].get_submodule("network")


def _normalised(network: nn.Module, by: str, source: DataSource | None) -> nn.Module:
    """`network` behind a normalisation by "dataset", "pretrained" or "none"; raises InvalidValueError if unknown."""
    if by == "none":
        return network
    if by == "dataset":
        if source is None:
            raise InvalidValueError("normalise by dataset needs its mean and std: pass the dataset")
        return nn.Sequential(Normalise(source.mean, source.std), network)
    settings = getattr(network, "pretrained_cfg", None)
    if not isinstance(settings, Mapping):
        raise InvalidValueError(f"normalise is 'pretrained', but {type(network).__name__} is no network of timm")
    return nn.Sequential(Normalise(settings["mean"], settings["std"]), network)


def _is_code(text: str) -> bool:
    """Whether a text has the form package.module:attribute."""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", text) is not None


def _own(text: str) -> nn.Module:
    """The module at package.module:attribute, or what calling it returns; the current folder can be imported from.

    Runs the user's own code. Raises CheckpointError for whatever it raises, InvalidValueError for no module.
    """
    name, _, attribute = text.partition(":")
    path = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(name))
        made = found if isinstance(found, nn.Module) or not callable(found) else found()
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


def _from_code(text: str, normalise: str | None, source: DataSource | None) -> nn.Module:
    return _normalised(_own(text), normalise or "none", source)
