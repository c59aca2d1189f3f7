"""Image classifiers of Hugging Face transformers (Wolf et al. 2020), from the hub or a folder of save_pretrained."""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench.adapters.weights import check_classes, hub
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.models.answers import logits_in
from ensemble_bench.models.normalise import Normalise
from ensemble_bench.models.state_dict import CONFIG, is_of_transformers, reason, weights_only

PREPROCESSOR = "preprocessor_config.json"
# One file of weights, or those that its index lists; a pickle only where there is none of safetensors.
FILES = (["*.json", "model*.safetensors"], ["pytorch_model*.bin"])
BELOW_CROPPED = 384
"""ConvNeXt's preprocessing cuts a share of the border off images that are made smaller than this."""
SAME = 0.03
"""Largest difference of smooth images by their preprocessing and by ours, which does not round to bytes."""
MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the ways to resize. Its others are taken as the nearest that has a gradient, bicubic."""


def meta(name: str) -> dict[str, Any]:
    """Nothing: a model does not say which of our data sets it is for. Raises InvalidValueError without the library."""
    _transformers()
    if not name:
        raise InvalidValueError("hf: expected the name of a model on the Hugging Face hub, or a folder, behind it")
    return {}


def load_model(name: str, *, folder: Path, data: DataSource | None = None) -> nn.Module:
    """The classifier in a folder, or "OWNER/NAME" or "OWNER/NAME@REVISION" of the hub, behind its own preprocessing.

    Files of the hub lie in the hub's own cache, not in `folder`. Raises CheckpointError for what cannot be downloaded,
    is no image classifier or lacks weights, InvalidValueError unless it has as many classes as `data` (None: any).
    """
    source = f"hf:{name}"
    place = Path(os.path.expanduser(name))
    if not place.is_dir():
        place = _downloaded(source, name)
    network = _network(source, place)
    labels = {int(number): str(label) for number, label in network.config.id2label.items()}
    check_classes(source, len(labels), data)
    order = None if data is None else _order([labels[i] for i in sorted(labels)], data.classes)
    if order is not None:
        logging.getLogger("ensemble_bench").warning("%s: its classes are put in the order of the data set's", source)
    return Classifier(network, _preprocessing(source, place), order)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to images in [0, 1]: brought to `size` where they have another, then normalised.

    The shorter side becomes `edge`, or both sides what it says, and `size` is cut from the middle; without an edge they
    are resized to `size` alone. With `flipped`, the channels then change their order, from RGB to BGR.
    """

    size: tuple[int, int] | None = None
    edge: int | tuple[int, int] | None = None
    mode: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flipped: bool = field(default=False, repr=False)  # the text of models, by which records know them, had none

    def sized(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel row column"]:
        """Images of the size that the network takes; differentiable."""
        if self.size is None or tuple(x.shape[2:]) == self.size:
            return x
        rows, columns = self.edge if isinstance(self.edge, tuple) else self.size
        if isinstance(self.edge, int):
            shorter = min(x.shape[2:])
            rows, columns = (
                max(side * self.edge // shorter, least) for side, least in zip(x.shape[2:], self.size, strict=True)
            )
        smooth = {} if self.mode == "nearest-exact" else {"antialias": True, "align_corners": False}
        x = F.interpolate(x, (rows, columns), mode=self.mode, **smooth)
        top, left = ((side - cut) // 2 for side, cut in zip(x.shape[2:], self.size, strict=True))
        return x[:, :, top : top + self.size[0], left : left + self.size[1]].clamp(0, 1)


class Classifier(nn.Module):
    """A classifier of transformers from images in [0, 1] to logits, in another `order` of classes if one is given."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, order: list[int] | None = None) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.order = order
        self.normalise = Normalise(preprocessing.mean, preprocessing.std)
        self.network = network

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits."""
        x = self.prepared(x)
        logits = logits_in(self.network(x), x)
        return logits if self.order is None else logits[:, self.order]

    def prepared(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel row column"]:
        """What the network itself is given."""
        x = self.normalise(self.preprocessing.sized(x))
        return x.flip(1) if self.preprocessing.flipped else x

    def extra_repr(self) -> str:
        """What the modules inside do not show, as an evaluation hashes the text of a model."""
        return f"{self.preprocessing}, order={self.order}"


def _downloaded(source: str, name: str) -> Path:
    """The folder of the hub's cache that holds a model."""
    repository, _, revision = name.partition("@")
    client = importlib.import_module("huggingface_hub")
    with hub() as silent, contextlib.redirect_stdout(sys.stderr):
        try:
            for patterns in FILES:
                place = Path(client.snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
                if any(place.glob(patterns[-1])):
                    return place
        except Exception as error:  # whatever a name, a token or a connection leads to
            if silent:
                raise CheckpointError(
                    f"{source}: is no folder, not in the hub's cache, and {silent} does not answer: expected hf:FOLDER "
                    "with config.json and model.safetensors, or a network"
                ) from error
            raise CheckpointError(f"{source}: {reason(error)}") from error
    raise CheckpointError(f"{source}: holds no {' or '.join(patterns[-1] for patterns in FILES)}")


def _network(source: str, place: Path) -> Any:
    """The network in eval mode and float32, every weight from the files."""
    library = _transformers()
    if not is_of_transformers(place):
        raise CheckpointError(f"{source}: expected a folder with a {CONFIG} of transformers and model.safetensors")
    try:
        with weights_only(), _quiet(library):
            network, told = library.AutoModelForImageClassification.from_pretrained(
                str(place),
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told of below
            )
    except Exception as error:  # whatever a damaged file or another kind of model leads to
        raise CheckpointError(f"{source}: {reason(error)}") from error
    # It would draw at random what is missing.
    for key in ("missing_keys", "mismatched_keys", "error_msgs"):
        if lacking := sorted(map(_shown, told.get(key) or ())):
            raise CheckpointError(f"{source}: {key.replace('_', ' ')}: {lacking[0]} (of {len(lacking)})")
    return network


def _shown(key: Any) -> str:
    """The name of a weight, with its shape and the expected one where the two differ."""
    return key if isinstance(key, str) else f"{key[0]} is {tuple(key[1])}, expected {tuple(key[2])}"


def _preprocessing(source: str, place: Path) -> Preprocessing:
    """What the model's own preprocessor does, or nothing where there is none."""
    if not (place / PREPROCESSOR).exists():
        return Preprocessing()
    library = _transformers()
    try:
        with _quiet(library):
            told = library.AutoImageProcessor.from_pretrained(str(place), local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{source}: {PREPROCESSOR}: {reason(error)}") from error

    def get(name: str) -> Any:
        return getattr(told, name, None)

    settings: dict[str, Any] = {}
    if get("do_resize") and get("size") is not None:
        settings = _sizes(source, dict(get("size")), get)
        if type(told).__name__.startswith("Levit") and settings["edge"]:
            settings["edge"] = int(256 / 224 * settings["edge"])
    # Theirs take bytes: x in [0, 1] is 255 x there.
    scale = 255.0 * (get("rescale_factor") or 1 / 255) if get("do_rescale") else 255.0
    shift = -1.0 if get("do_rescale") and get("rescale_offset") else 0.0
    mean, std = (get("image_mean"), get("image_std")) if get("do_normalize") else (0.0, 1.0)
    if mean is None or std is None:
        raise CheckpointError(f"{source}: {type(told).__name__} names no mean and std to normalise by")
    means, stds = (tuple(v) if isinstance(v, list | tuple) else (v,) for v in (mean, std))
    if get("include_top"):  # EfficientNet divides twice for classifiers
        stds = tuple(value**2 for value in stds)
    found = Preprocessing(
        mean=tuple((value - shift) / scale for value in means),
        std=tuple(value / scale for value in stds),
        flipped=bool(get("do_flip_channel_order")),
        **settings,
    )
    _check(source, told, found)
    return found


def _check(source: str, processor: Any, ours: Preprocessing) -> None:
    """Raise CheckpointError unless a processor of transformers makes of smooth images what `ours` makes of them."""
    name = type(processor).__name__
    for rows, columns in ((300, 300), (256, 320)):
        waves = 5 * torch.linspace(0, 1, rows)[:, None] + 3 * torch.linspace(0, 1, columns)
        image = torch.stack([127.5 + 120 * (waves + channel).sin() for channel in range(3)]).round().byte()
        x = Classifier(nn.Identity(), ours).prepared(image[None] / 255)
        try:
            theirs = processor(images=image, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
        except Exception as error:  # whatever its settings lead to
            raise CheckpointError(f"{source}: {PREPROCESSOR}: {name}: {reason(error)}") from error
        gap = (x - theirs).abs().max().item() if x.shape == theirs.shape else torch.inf
        if not gap <= SAME:
            raise CheckpointError(
                f"{source}: {name} prepares images in a way that is not known here: of one of {rows}x{columns} pixels "
                f"it makes {tuple(theirs.shape)}, we {tuple(x.shape)}, up to {gap:.2g} apart"
            )


def _sizes(source: str, size: Mapping[str, int | None], get: Any) -> dict[str, Any]:
    """Size, edge and mode of a `Preprocessing`."""
    mode = {"mode": MODES.get(int(get("resample") or 0), "bicubic")}
    crop = dict(get("crop_size") or {}) if get("do_center_crop") else {}
    cut = (crop["height"], crop["width"]) if crop.get("height") and crop.get("width") else None
    if size.get("height") and size.get("width"):
        whole = (int(size["height"] or 0), int(size["width"] or 0))
        return {"size": cut or whole, "edge": None if cut in (None, whole) else whole, **mode}
    edge = size.get("shortest_edge")
    if not edge:
        raise CheckpointError(f"{source}: its preprocessor resizes to {dict(size)}: expected height and width")
    share = get("crop_pct")
    if share and cut is None and edge >= BELOW_CROPPED:
        return {"size": (edge, edge), "edge": None, **mode}
    return {"size": cut or (edge, edge), "edge": int(edge / share) if share else edge, **mode}


def _order(labels: list[str], classes: tuple[str, ...]) -> list[int] | None:
    """Where each class of the data set stands among the model's, if they are the same in another order."""
    ours, theirs = ([name.casefold().replace(" ", "_") for name in names] for names in (classes, labels))
    if ours == theirs or sorted(ours) != sorted(theirs) or len(set(ours)) < len(ours):
        return None
    return [theirs.index(name) for name in ours]


@contextlib.contextmanager
def _quiet(library: ModuleType) -> Iterator[None]:
    """Its bars and its reports of how weights were read stay away; what is amiss becomes an error here."""
    told = library.logging
    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()


def _transformers() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it calls of torch, which no user can mend
            return importlib.import_module("transformers")
    except ImportError as error:
        raise InvalidValueError(
            f"transformers cannot be imported ({error}): pip install 'ensemble-bench[hf]'"
        ) from error
