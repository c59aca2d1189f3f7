"""Models for tests: digits networks trained for a second, linear ones with closed forms, and ones that misbehave."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench import data
from ensemble_bench.evaluation import blackbox
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.ensemble import Ensemble

ARCHITECTURE = Architecture(
    backbone="small_cnn", width=0.5, classes=10, image_shape=(1, 8, 8), mean=(0.3058,), std=(0.3764,)
)


@functools.lru_cache
def images(n: int) -> tuple[Tensor, Tensor]:
    """The first `n` digits of the test split."""
    return data.open_source("digits").split("test").batch(slice(n))


def trained(*, members: int = 1, seed: int = 0, eps: float = 0.1, steps: int = 120) -> Ensemble:
    """A digits network with some robustness, from plain noisy FGSM training; every call returns its own copy."""
    model = _untrained(members, seed)
    model.load_state_dict(_weights(members, seed, eps, steps))
    return model.eval()


def _untrained(members: int, seed: int) -> Ensemble:
    from dataclasses import replace

    return build(replace(ARCHITECTURE, members=members), seed=seed)


@functools.lru_cache
def _weights(members: int, seed: int, eps: float, steps: int) -> dict[str, Tensor]:
    model = _untrained(members, seed).train()
    train = data.open_source("digits").split("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    noise = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = train.batch(torch.randint(len(train), (128,), generator=noise))
        x_adv = (x + eps * (2 * torch.rand(x.shape, generator=noise) - 1)).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = (x_adv + eps * grad.sign()).detach().clamp(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y])).backward()
        optimizer.step()
    return model.state_dict()


class Linear(nn.Module):
    """logits = W x + b on flattened images."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


class Wrapped(nn.Module):
    """The logits of `model` after `change(logits, x)`."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x), x)


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[tuple[int, bool]]]:
    """Batch sizes that `model` is called with, and whether for a gradient."""
    calls: list[tuple[int, bool]] = []
    hook = model.register_forward_pre_hook(lambda _, args: calls.append((len(args[0]), torch.is_grad_enabled())))
    try:
        yield calls
    finally:
        hook.remove()


@functools.lru_cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory()  # kept in the cache, and so until the tests end


@functools.lru_cache
def blackbox_set() -> Path:
    """A black-box set of 60 digits, against surrogates of a few epochs."""
    from dataclasses import replace
    from unittest import mock

    tiny = blackbox.PRESETS["tiny"]
    brief = replace(tiny, settings={"digits": replace(tiny.on("digits"), surrogate_epochs=3)})
    with mock.patch.object(blackbox, "PRESETS", {"tiny": brief}):
        return blackbox.build("digits", n=60, out=Path(_scratch().name) / "set")
