"""The architecture of a model as plain data; no torch here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ensemble_bench import registry
from ensemble_bench.errors import CheckpointError, InvalidValueError, UnknownNameError
from ensemble_bench.registry.terms import LARGEST, SMALLEST

STRIDED = ("wrn", "preact_resnet18")
"""Backbones whose first layer can make images smaller; others take every size as it is."""
STRIDES = (1, 2, 4)
AGGREGATIONS = ("prob", "logit", "draw", "vote")
"""Ways to combine the members' answers (see `Ensemble`)."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model without its weights.

    `backbone` is a name of the registry; `depth` belongs to "wrn" (6n + 4, 10 to 100) and to those backbones of other
    packages that take one (1 to 1000), else None; `width` multiplies channels (1/16 to 64); `image_shape` is (channel,
    row, column); `mean` and `std` are per channel, for images in [0, 1]; `members` networks (1 to 64) are averaged in
    probability or logit space (`aggregation`), weighted by a gating network if `gated`. `stride` is what the first
    layer of one of STRIDED divides the sides by (see `stride_for`). Raises InvalidValueError for anything else: these
    bounds also guard against forged files.
    """

    backbone: str
    depth: int | None = None
    width: float = 1.0
    classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    members: int = 1
    aggregation: str = "prob"
    gated: bool = False
    stride: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str):
            raise InvalidValueError(f"backbone is {self.backbone!r}: expected a name")
        registry.check("backbone", self.backbone)
        self._check_depth()
        _check_number("width", self.width, 1 / 16, 64)
        _check_integer("classes", self.classes, 2, 1000)
        _check_integer("members", self.members, 1, 64)
        if not isinstance(self.image_shape, tuple) or len(self.image_shape) != 3:
            raise InvalidValueError(f"image_shape is {self.image_shape!r}: expected (channel, row, column)")
        _check_integer("image_shape's channels", self.image_shape[0], 1, 16)
        for side in self.image_shape[1:]:
            _check_integer("image_shape's side", side, SMALLEST, LARGEST)
        for name, values, low in (("mean", self.mean, 0.0), ("std", self.std, 1e-3)):
            if not isinstance(values, tuple) or len(values) != self.image_shape[0]:
                raise InvalidValueError(
                    f"{name} is {values!r}: expected a number for each of {self.image_shape[0]} channels"
                )
            for value in values:
                _check_number(name, value, low, 1.0)
        if type(self.stride) is not int or self.stride not in STRIDES:
            raise InvalidValueError(f"stride is {self.stride!r}: expected 1, 2 or 4")
        if self.stride != 1 and self.backbone not in STRIDED:
            raise InvalidValueError(f"stride is {self.stride}: {self.backbone} has none, expected 1")
        if self.aggregation not in AGGREGATIONS:
            raise UnknownNameError("aggregation", str(self.aggregation), AGGREGATIONS)
        if not isinstance(self.gated, bool):
            raise InvalidValueError(f"gated is {self.gated!r}: expected true or false")
        if self.gated and self.members < 2:
            raise InvalidValueError("gated is true for 1 member: a gate needs at least 2 to choose from")

    def _check_depth(self) -> None:
        if self.backbone not in registry.BACKBONES:
            if self.depth is not None:
                _check_integer("depth", self.depth, 1, 1000)
            return
        if self.backbone != "wrn":
            if self.depth is not None:
                raise InvalidValueError(f"depth is {self.depth!r}: {self.backbone} has a fixed depth, expected None")
            return
        _check_integer("depth", self.depth, 10, 100)
        if self.depth is not None and self.depth % 6 != 4:
            raise InvalidValueError(f"depth is {self.depth}: a wide ResNet has 6n + 4 layers, such as 10, 16, 28 or 34")

    def as_dict(self) -> dict[str, Any]:
        """Fields as values of JSON (lists for tuples); without a stride of 1, which files did not always hold."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.stride == 1:
            del values["stride"]
        return values | {"width": float(self.width)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """Inverse of `as_dict`; raises CheckpointError for unknown or missing keys and values out of range."""
        if not isinstance(values, Mapping):
            raise CheckpointError(f"architecture is a {type(values).__name__}: expected an object")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(map(str, set(values) - set(known))):
            raise CheckpointError(f"architecture has unknown keys {', '.join(unknown)}: expected {', '.join(known)}")
        if missing := [name for name in known if name not in values and name != "stride"]:
            raise CheckpointError(f"architecture lacks {', '.join(missing)}")
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**options)
        except InvalidValueError as error:
            raise CheckpointError(f"architecture: {error}") from error


def stride_for(backbone: str, image_shape: tuple[int, int, int]) -> int:
    """What the first layer of a new network divides the sides of images by: 1 to 40x40, 2 to 80x80, 4 above.

    The blocks then work on 20 to 40 rows, as they were made for, and on 56 of 224, as the ResNets for ImageNet do.
    """
    side = min(image_shape[1:])
    if backbone not in STRIDED or side <= 40:
        return 1
    return 2 if side <= 80 else 4


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """The description of a checkpoint: file and hash of its weights, its architecture, the trainer's `meta`."""

    path: Path
    architecture: Architecture
    meta: dict[str, Any]
    weights_hash: str


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidValueError(f"{name} is {value!r}: expected an integer from {low} to {high}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidValueError(f"{name} is {value!r}: expected a number from {low:g} to {high:g}")
