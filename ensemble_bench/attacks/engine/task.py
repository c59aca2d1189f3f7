"""The input of an attack, and its result."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ensemble_bench.errors import AttackError, InvalidValueError, check_whole
from ensemble_bench.threat import ThreatModel

PRECISIONS = ("float32", "bf16")
OnDone = Callable[[int, int], None]
"""Called with the number of images that are finished, and the number of these that are broken."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How an attack runs: the seed of its noise, the images of a batch, the precision of its search, and the device.

    Verdicts are always in the images' own precision. `compile` says whether the model's twin is compiled. Raises
    InvalidValueError for a seed below 0, a batch size below 1 or an unknown precision.
    """

    seed: int = 0
    batch_size: int = 128
    precision: str = "float32"
    device: torch.device = torch.device("cpu")
    compile: bool = False

    def __post_init__(self) -> None:
        check_whole("seed", self.seed)
        check_whole("batch_size", self.batch_size, least=1)
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            raise InvalidValueError(f"precision is {self.precision!r}: choose from {', '.join(PRECISIONS)}")

    @classmethod
    def on(
        cls,
        device: torch.device,
        *,
        seed: int,
        batch_size: int | None,
        precision: str = "float32",
        compile: bool = False,
    ) -> "Budget":
        """Budget on a device, where a batch has 512 images on a GPU, else 128, unless `batch_size` says otherwise."""
        size = (512 if device.type == "cuda" else 128) if batch_size is None else batch_size
        return cls(seed=seed, batch_size=size, precision=precision, device=device, compile=compile)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A model and the images to attack it on: the whole input of an attack. `ids` lie on the CPU.

    `targets` are wrong classes, from the most promising one on, for attacks that are told a class; None: the strongest
    first, by the logits of the clean image. `clean_logits` are the model's at `x`, where they are known.

    Raises InvalidValueError, naming the value, for images and labels that no attack can take.
    """

    model: nn.Module
    x: Float[Tensor, "batch *image"]
    y: Int64[Tensor, "batch"]
    threat: ThreatModel
    ids: Int64[Tensor, "batch"]
    budget: Budget
    on_done: OnDone | None
    targets: Int64[Tensor, "batch rank"] | None = None
    clean_logits: Float[Tensor, "batch class"] | None = None
    twin: nn.Module | None = None
    """What proposes instead of the model, which decides: the same function at less cost (see models/folded.py)."""

    def __post_init__(self) -> None:
        validate(self.x, self.y, self.ids)

    @property
    def proposer(self) -> nn.Module:
        """The module that proposals call."""
        return self.model if self.twin is None else self.twin

    def of(self, rows: Int64[Tensor, "row"]) -> "Task":
        """The same, of some images only."""
        targets = None if self.targets is None else self.targets[rows]
        logits = None if self.clean_logits is None else self.clean_logits[rows]
        x, y, ids = self.x[rows], self.y[rows], self.ids[rows.cpu()]
        return replace(self, x=x, y=y, ids=ids, targets=targets, clean_logits=logits)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of an attack for every image, in the order of the images."""

    x_adv: Float[Tensor, "batch *image"]
    broken: Bool[Tensor, "batch"]
    """Misclassified at `x_adv` by the model in the images' own precision."""
    steps: Int64[Tensor, "batch"]
    """Iterations until broken (0: the clean image or its random start), or all of them; restarts add up."""
    margin: Float[Tensor, "batch"]
    """Largest wrong logit minus the right one at `x_adv`; positive when broken."""
    zero_gradients: int = 0
    """Images whose gradient at a start was exactly zero, each once: a sign of masking."""
    passes: int = 0
    """Images pushed through the model, forward or backward, proposals and decisions together."""


def validate(x: Tensor, y: Tensor, ids: Tensor) -> None:
    """Raise InvalidValueError, naming the value, unless these are images, labels and ids that an attack can take."""
    for what, value in (("images", x), ("labels", y), ("ids", ids)):
        if value.dim() < (2 if value is x else 1):
            raise InvalidValueError(
                f"{what} have shape {tuple(value.shape)}: expected an axis of images, and of pixels"
            )
    if ids.is_floating_point() or ids.dim() != 1:
        raise InvalidValueError(
            f"ids have dtype {ids.dtype} and shape {tuple(ids.shape)}: expected int64 of shape (n,)"
        )
    if len(x) != len(y) or len(x) != len(ids):
        raise InvalidValueError(f"{len(x)} images, {len(y)} labels and {len(ids)} ids: expected as many of each")
    if not x.is_floating_point():
        raise InvalidValueError(f"images have dtype {x.dtype}: expected floating point in [0, 1]")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise InvalidValueError(
            f"images have dtype {x.dtype}, whose rounding leaves the ball: expected float32 or float64, such as "
            "x.float(); a model in half precision takes these too"
        )
    if y.dtype != torch.int64 or y.dim() != 1:
        raise InvalidValueError(f"labels have dtype {y.dtype} and shape {tuple(y.shape)}: expected int64 of shape (n,)")
    if len(x) == 0:
        return
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):
        raise InvalidValueError(f"images span [{low:.6g}, {high:.6g}]: expected values in [0, 1]")


def check(attack: str, threat: ThreatModel, x_adv: Tensor, x: Tensor) -> None:
    """As `threat.check`, its error naming the attack."""
    try:
        threat.check(x_adv, x)
    except AttackError as error:
        raise AttackError(f"{attack}: {error}") from None
