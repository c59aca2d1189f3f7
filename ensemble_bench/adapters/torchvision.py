"""torchvision's published classifiers (TorchVision maintainers 2016)."""

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from ensemble_bench.adapters.weights import check_classes, check_download, seeded, split_random
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, UnknownNameError
from ensemble_bench.models.normalise import Normalise
from ensemble_bench.models.state_dict import reason, weights_only


def meta(name: str) -> dict[str, Any]:
    """Nothing: the weights are for ImageNet, which is no default of ours. Raises UnknownNameError."""
    known = torchvision.models.list_models(module=torchvision.models)
    if (short := split_random("torchvision", name)[0]) not in known:
        raise UnknownNameError("torchvision model", short, known)
    return {}


def load_model(name: str, *, folder: Path, data: DataSource | None = None) -> nn.Module:
    """A classifier with torchvision's default weights, normalised inside; they lie in torch's cache, not in `folder`.

    "NAME?random" has random weights, always the same, and the classes of `data`. Raises as the loader of timm.
    """
    meta(name)
    short, random = split_random("torchvision", name)
    source, weights = f"torchvision:{short}", torchvision.models.get_model_weights(short).DEFAULT
    published = len(weights.meta["categories"])
    classes = published if data is None else len(data.classes)
    if not random:
        check_classes(source, published, data)
        check_download(source, weights.url)
    try:
        with seeded(), weights_only(), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of how it draws weights, which no user can mend
            network = torchvision.models.get_model(short, weights=None if random else weights, num_classes=classes)
    except Exception as error:  # whatever a download or a damaged file leads to
        raise CheckpointError(f"{source}: {reason(error)}") from error
    preset = weights.transforms()
    return nn.Sequential(Normalise(preset.mean, preset.std), network)
