"""timm (Wightman 2019): its pretrained models, and its architectures for weights of one's own."""

import contextlib
import difflib
import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ensemble_bench.adapters.weights import (
    RANDOM,
    check_classes,
    check_download,
    hub,
    seeded,
    split_random,
    unreachable,
)
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, InvalidValueError, UnknownNameError
from ensemble_bench.models.normalise import Normalise
from ensemble_bench.models.state_dict import reason, weights_only

# Names on the Hugging Face hub, which timm cannot list.
HUB = ("hf-hub:", "hf_hub:")


def meta(name: str) -> dict[str, Any]:
    """Nothing: timm does not say which of our data sets a model is for. Raises UnknownNameError."""
    _check(split_random("timm", name)[0])
    return {}


def load_model(name: str, *, folder: Path, data: DataSource | None = None) -> nn.Module:
    """timm's pretrained model, normalised inside; its weights lie in timm's own cache, not in `folder`.

    "NAME?random" has random weights, always the same, and classes, channels and image size of `data`. Raises
    UnknownNameError, CheckpointError when there are no weights to be had, and InvalidValueError unless it has as many
    classes as `data` (None: any number).
    """
    short, random = split_random("timm", name)
    if random:
        with seeded():
            network = _fitting(short, data)
        return network if data is not None and data.image_shape[0] != 3 else _normalised(network)
    network = _pretrained(short)
    check_classes(f"timm:{short}", network.num_classes, data)
    return _normalised(network)


def architecture(name: str, *, classes: int, channels: int) -> nn.Module:
    """timm's network for images of so many channels, without weights of meaning; raises as `load_model`."""
    network: nn.Module = _create(name, pretrained=False, num_classes=classes, in_chans=channels)
    return network


def _normalised(network: Any) -> nn.Module:
    settings = network.pretrained_cfg
    return nn.Sequential(Normalise(settings["mean"], settings["std"]), network)


def _fitting(name: str, data: DataSource | None) -> Any:
    """The untrained network for a data set, by default for the one that timm means."""
    if data is None:
        return _create(name, pretrained=False)
    channels, *size = data.image_shape
    settings: dict[str, Any] = {"num_classes": len(data.classes), "in_chans": channels}
    config = None if name.startswith(HUB) else _timm().get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:  # transformers learn a position for every patch
        settings["img_size"] = tuple(size)
    return _create(name, pretrained=False, **settings)


def _pretrained(name: str) -> Any:
    """The network with its weights; where they cannot be had, an error comes within seconds."""
    _check(name)
    config = None if name.startswith(HUB) else _timm().get_pretrained_cfg(name)
    if config is not None and not config.has_weights:
        raise CheckpointError(f"timm:{name}: timm has no weights for it: timm:{name}?{RANDOM} has random ones")
    if config is not None and config.url and not config.hf_hub_id:
        check_download(f"timm:{name}", config.url)
        return _create(name, pretrained=True)
    with hub() as silent:
        try:
            return _create(name, pretrained=True)
        except CheckpointError as error:
            if silent:
                raise CheckpointError(unreachable(f"timm:{name}", silent)) from error
            raise


def _create(name: str, **settings: Any) -> Any:
    _check(name)
    # Of a name on the hub not even the architecture is known here.
    reached = hub() if name.startswith(HUB) and not settings["pretrained"] else contextlib.nullcontext("")
    with reached as silent:
        try:
            with weights_only(), contextlib.redirect_stdout(sys.stderr):
                return _timm().create_model(name, **settings)
        except Exception as error:  # whatever a download, a damaged file or an argument leads to
            told = f"{silent} does not answer" if silent else reason(error)
            if "pip install huggingface_hub" in told:  # what it says of one that is too new for it, too
                told = (
                    f"timm {_timm().__version__} finds no huggingface_hub that it can use: install 'huggingface_hub<2'"
                )
            raise CheckpointError(f"timm:{name}: {told}") from error


def _check(name: str) -> None:
    timm = _timm()
    if name.startswith(HUB):
        return
    if not timm.is_model(name):
        # All of its names would fill pages.
        near = difflib.get_close_matches(name, timm.list_models(), n=8, cutoff=0.3)
        raise UnknownNameError("timm model", name, near or timm.list_models("resnet*"))
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # weights that it does not have, behind a point; `is_model` does not look there
        bare = name.partition(".")[0]
        raise UnknownNameError("timm model", name, [bare, *timm.list_pretrained(f"{bare}.*")]) from error


def _timm() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what timm calls of torch, which no user can mend
            return importlib.import_module("timm")
    except ImportError as error:
        raise InvalidValueError(f"timm cannot be imported ({error}): install timm") from error
