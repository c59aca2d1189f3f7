"""Networks that give something else than logits in reach of gradients, as networks that give such logits.

Each stands for the network with the same order of classes on every image, so that it is exactly as robust.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ensemble_bench.models.answers import answer

FAR = 80.0
"""Two logits further apart than this leave softmax no gradient in float32: exp(−88) is below its normal numbers."""
NEAR = 1e-3
"""Logits all nearer than this lose digits in a softmax, whose logs lie near −log k."""
USUAL = 16.0
"""Logits of usual networks lie about so far apart; any power of 2 near it would do."""
_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class _SoftmaxSeen(TorchFunctionMode):
    """Remembers, by its output, what the last softmax over rows of a matrix was taken of."""

    last: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _SOFTMAX and args and isinstance(args[0], Tensor) and args[0].dim() == 2:
            self.last = (out, args[0])
        return out


class AsLogits(nn.Module):
    """Log of the probabilities that a network gives; of a softmax, its input's log-softmax, which does not saturate."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Log-probabilities."""
        with _SoftmaxSeen() as seen:
            probs = answer(self.network, x)
        if seen.last is not None and seen.last[0] is probs:
            log_probs: Tensor = seen.last[1].log_softmax(1)
            return log_probs
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()


class Scaled(nn.Module):
    """The logits of a network times a power of 2, which rounds nothing and changes no order."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Scaled logits."""
        return answer(self.network, x) * self.factor


class OneByOne(nn.Module):
    """A network that is shown every image alone: integer layers scale all images of a batch by the largest."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Logits."""
        return torch.cat([answer(self.network, image) for image in torch.split(x, 1)])


def scales_by_batch(network: nn.Module) -> bool:
    """Whether it has layers that were quantised dynamically."""
    return any(".quantized.dynamic" in type(module).__module__ for module in network.modules())


def are_probabilities(logits: Float[Tensor, "batch class"]) -> bool:
    """Whether all rows are non-negative and sum to 1, within rounding."""
    tolerance = 1e-4 if logits.dtype in (torch.float32, torch.float64) else 0.02
    sums = logits.double().sum(dim=1)
    return logits.shape[1] > 1 and bool((logits >= 0).all()) and bool(((sums - 1).abs() < tolerance).all())


def factor_for(logits: Float[Tensor, "batch class"]) -> float:
    """Power of 2 that brings logits which are out of reach to about `USUAL`; 1 for all others."""
    top = logits.double().topk(min(2, logits.shape[1]), dim=1).values
    far = (top[:, 0] - top[:, -1]).max().item()
    spread = (logits.double().amax(dim=1) - logits.double().amin(dim=1)).max().item()
    if far > FAR:
        return 2.0 ** -math.ceil(math.log2(far / USUAL))
    return 2.0 ** math.floor(math.log2(USUAL / spread)) if 0 < spread < NEAR else 1.0
