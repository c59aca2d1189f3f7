"""Another processor, in effect: TEST_ROUNDING=SEED rounds every convolution and linear layer in another way.

Processors add the terms of a dot product in different orders, and so differ in the last bits of the sum. Here the
output of a layer, and the gradient that comes back to it, move by up to 2 units in the last place, in a pattern that
SEED and the shape of the batch decide: the same call twice gives the same bytes, as on any one machine.
"""

import functools
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

UNITS = 2
SEED = os.environ.get("TEST_ROUNDING")


@functools.lru_cache(maxsize=512)
def _pattern(seed: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}{tuple(shape)}".encode()))
    noise = 2 * torch.rand(shape, generator=generator) - 1
    return (noise * UNITS * torch.finfo(dtype).eps).to(dtype)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, seed: str) -> Tensor:
        ctx.seed = seed
        # A sum of terms of both signs errs by its terms' size, not its own; exact zeros stay.
        size = y.abs().flatten(1).amax(dim=1).view(-1, *[1] * (y.dim() - 1)) if y.numel() else y
        return y + size * _pattern(seed, y.shape, y.dtype) * (y != 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad + grad * _pattern(ctx.seed, grad.shape, grad.dtype), None


def _rounded(layer: Callable[..., Tensor], seed: str) -> Callable[..., Tensor]:
    @functools.wraps(layer)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        y = layer(*args, **kwargs)
        return y if y.dim() < 2 or y.is_meta else _Rounded.apply(y, seed)  # type: ignore[no-any-return]

    return call


@contextmanager
def another_processor(seed: str) -> Iterator[None]:
    """Inside, convolutions and linear layers round in the way of `seed`."""
    changed = {name: _rounded(getattr(F, name), f"{seed}/{name}") for name in ("conv2d", "linear")}
    with mock.patch.multiple(F, **changed):
        yield
