"""Models for tests: digits networks of fixed weights, linear ones with closed forms, and ones that misbehave."""

import functools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench import data
from ensemble_bench.attacks.engine import Attack, Budget, Outcome, Task
from ensemble_bench.data import ImageSet
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.folded import twin_of
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.presets import PRESETS, Network

FIXTURES = Path(__file__).with_name("fixtures")
ARCHITECTURE = Architecture(
    backbone="small_cnn", width=0.5, classes=10, image_shape=(1, 8, 8), mean=(0.3058,), std=(0.3764,)
)


@functools.lru_cache
def images(n: int) -> tuple[Tensor, Tensor]:
    """The first `n` digits of the test split."""
    return data.open_source("digits").split("test").batch(slice(n))


@dataclass(frozen=True)
class Fixed:
    """A digits network whose weights lie in fixtures/: its members, the seed and the eps that it was trained with."""

    members: int = 1
    seed: int = 0
    eps: float = 0.1

    @property
    def file(self) -> str:
        return f"members{self.members}-seed{self.seed}-eps{self.eps:g}.safetensors"


NETWORKS = (
    Fixed(),
    Fixed(seed=1),
    Fixed(members=2),
    Fixed(members=3),
    # Nearly and quite standard training.
    Fixed(seed=1, eps=0.01),
    Fixed(eps=0.0),
    Fixed(seed=1, eps=0.0),
    Fixed(members=2, eps=0.0),
)


def trained(*, members: int = 1, seed: int = 0, eps: float = 0.1) -> Ensemble:
    """One of NETWORKS, with weights from fixtures/: the same on every machine; every call returns its own copy."""
    model = untrained(members, seed)
    model.load_state_dict(_weights(Fixed(members, seed, eps).file))
    return model.eval()


def untrained(members: int, seed: int) -> Ensemble:
    """A digits network as it is before training."""
    return build(replace(ARCHITECTURE, members=members), seed=seed)


PERCEPTRONS = (0, 1)
"""Seeds of the networks of one hidden layer."""


def perceptron(seed: int) -> nn.Module:
    """A network of one hidden layer with some robustness, of fixed weights: fast enough for AutoAttack."""
    network = untrained_perceptron(seed)
    network.load_state_dict(_weights(f"perceptron-seed{seed}.safetensors"))
    return network


def untrained_perceptron(seed: int) -> nn.Module:
    """A network of one hidden layer as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


@dataclass(frozen=True)
class Together:
    """Perceptrons of these seeds, trained together on clean images: each on its own, or to diverge (ADP)."""

    seeds: tuple[int, ...]
    diverging: bool = False

    @property
    def file(self) -> str:
        return f"perceptrons{len(self.seeds)}{'-diverging' if self.diverging else ''}.safetensors"

    def untrained(self) -> Ensemble:
        """The networks as they are before training."""
        return Ensemble([untrained_perceptron(seed) for seed in self.seeds])

    def trained(self) -> Ensemble:
        """Every call returns its own copy, with weights from fixtures/."""
        model = self.untrained()
        model.load_state_dict(_weights(self.file))
        return model.eval()


STANDARD_TEN = Together(seeds=tuple(range(10, 20)))
DIVERGING = Together(seeds=(20, 21, 22), diverging=True)


@functools.lru_cache
def _weights(file: str) -> dict[str, Tensor]:
    return load_file(FIXTURES / "networks" / file)


class Linear(nn.Module):
    """logits = W x + b on flattened images."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


def linear_images(threat: ThreatModel) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """A linear model of three classes, and images at known radii, in units of eps, from the boundary of 0 and 1.

    A linear boundary lies |gap|/‖w‖ away, ‖·‖ the dual norm; images are moved along w to where that is 0.2 to 1.3.
    Class 2 is there, and too far away for anyone.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 64, generator=generator)
    w = weight[1] - weight[0]
    radius = torch.cat([torch.linspace(0.2, 0.97, 20), torch.linspace(1.03, 1.3, 12)])
    y = torch.arange(len(radius)) % 2
    x = 0.4 + 0.2 * torch.rand(len(radius), 64, generator=generator)
    bias = torch.tensor([0.0, -(x @ w).mean().item(), 0.0])
    bias[2] = (x @ weight.T + bias).min() - 20
    gap = (2 * y - 1) * radius * threat.eps * torch.linalg.vector_norm(w, ord=1 if threat.norm == "linf" else 2)
    x = x + ((gap - x @ w - bias[1]) / w.square().sum())[:, None] * w
    assert x.min() > threat.eps  # the box [0, 1] binds nowhere
    assert x.max() < 1 - threat.eps
    return Linear(weight, bias), x.view(-1, 1, 8, 8), y, radius


def odd_and_even(n: int) -> tuple[Linear, ImageSet]:
    """The first `n` test digits, odd (1) or even (0), and a linear model that tells them apart as well as means can.

    Of two classes the gradient points one way everywhere: rounding turns no step of an attack.
    """
    split = data.open_source("digits").split("test").first(n)
    split = replace(split, labels=split.labels % 2)
    x = split.batch(slice(None))[0].flatten(1)
    odd, even = x[split.labels == 1].mean(dim=0), x[split.labels == 0].mean(dim=0)
    weight = torch.stack([even - odd, odd - even])
    return Linear(weight, -weight @ (odd + even) / 2), split


class BadGradient(torch.autograd.Function):
    """Answers pass; their gradient is NaN."""

    @staticmethod
    def forward(ctx: object, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * math.nan


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


def searched(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, batch_size: int = 128, **more: Any
) -> Outcome:
    """As `attack.run`, without the look at the model, whose calls would count."""
    budget = Budget(batch_size=batch_size, device=x.device)
    settings = {"ids": torch.arange(len(x)), "on_done": None, "twin": twin_of(model, x).model} | more
    return attack.search(Task(model=model, x=x, y=y, threat=threat, budget=budget, **settings))


@functools.lru_cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory()  # kept in the cache, and so until the tests end


_TINY = PRESETS["tiny"].on("digits")
SURROGATES = replace(
    PRESETS["tiny"],
    settings={
        "digits": replace(
            _TINY,
            # Twice a small network: the preset's VGG alone would be more than all else that lies in fixtures/.
            surrogates=(Network(backbone="small_cnn", width=0.5), Network(backbone="small_cnn", width=0.75)),
        )
    },
)
"""The preset that the black-box set in fixtures/ was built with, under the name of tiny."""


@functools.lru_cache
def blackbox_set() -> Path:
    """A copy of the black-box set in fixtures/: of 60 digits, with its surrogates."""
    return Path(shutil.copytree(FIXTURES / "blackbox", Path(_scratch().name) / "blackbox")) / "set.safetensors"
