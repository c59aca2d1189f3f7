"""An attack, a backbone, a data set, an objective, a preset, a recipe and a suite for ensemble-bench."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ensemble_bench.attacks.engine import Noise, State
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.data.source import DataSource, Rows, fingerprint
from ensemble_bench.registry import Recipe, Suite
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.objectives import answers
from ensemble_bench.training.presets import PRESETS, Network, Preset


@dataclass(frozen=True, kw_only=True)
class MIFGSM(PGD):
    """Steepest ascent along the momentum of the gradients, each over its l1 norm (Dong et al. 2018)."""

    decay: float = 1.0

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """No momentum yet."""
        s["momentum"] = torch.zeros_like(s["x"])

    def step(self, s: State, value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        """g ← μ·g + ∇/‖∇‖₁; x ← Π(x + η·steepest(g))."""
        size = grad.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
        s["momentum"] = self.decay * s["momentum"] + grad / size
        super().step(s, value, s["momentum"], threat)


def mifgsm(steps: int = 10, **settings: Any) -> MIFGSM:
    """N sign steps of eps/N along the momentum of the gradients, by default 10 (Dong et al. 2018)."""
    return replace(MIFGSM(name=f"mifgsm{steps}", steps=steps, step_size=1 / steps, random_start=False), **settings)


class StripeNet(nn.Module):
    """Two convolutions and a linear layer, for small images."""

    def __init__(self, *, width: float = 1.0, classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        channels = round(16 * width)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, class) of normalised images (batch, channel, row, column)."""
        logits: Tensor = self.linear(self.features(x).mean((2, 3)))
        return logits


def open_stripes(data_dir: str | Path | None = None) -> DataSource:
    """1,000 noisy images of stripes that lie, stand, rise or fall; generated, so `data_dir` is not looked at."""
    random = np.random.RandomState(0)
    labels = np.arange(1000) % 4
    row, column = np.mgrid[:8, :8]
    phases = np.stack([row, column, row + column, row - column])[labels] + random.randint(4, size=(1000, 1, 1))
    grey = 127.5 + 50 * np.where(phases % 4 < 2, 1, -1) + 50 * random.randn(1000, 8, 8)
    everything = Rows(
        images=torch.from_numpy(grey.clip(0, 255).astype(np.uint8)).unsqueeze(1),
        labels=torch.from_numpy(labels.astype(np.int64)),
        ids=torch.arange(1000),
    )
    splits = {"train": range(700), "validation": range(700, 800), "test": range(800, 1000)}
    return DataSource(
        dataset="stripes",
        name="stripes",
        classes=("lying", "standing", "rising", "falling"),
        image_shape=(1, 8, 8),
        mean=(0.5,),
        std=(0.26,),
        default_eps=32 / 255,
        scale=255,
        fingerprint=fingerprint({"all": (everything.images, everything.labels)}),
        read=lambda split: everything.at(torch.tensor(splits[split])),
        trains_like="digits",
    )


def trades4(model: Any, x: Tensor, x_adv: Tensor | None, y: Tensor) -> Tensor:
    """TRADES with a weight of 4: the loss on x, and the divergence of x_adv's answers from x's (Zhang et al. 2019)."""
    clean = model(x).log_softmax(1)
    loss = torch.nn.functional.nll_loss(clean, y, reduction="none")
    if x_adv is None:  # a recipe that attacks nothing
        return loss
    attacked = answers(model, x_adv).log_softmax(1)
    return loss + 4 * (clean.exp() * (clean - attacked)).sum(1)


BRIEF = Preset(
    name="brief",
    description="tiny, for 40 steps",
    settings={
        name: replace(settings, steps=40, epochs=None, evaluate_every=10)
        for name, settings in PRESETS["tiny"].settings.items()
    },
)

STRIPES2ADV = Recipe(
    name="stripes2adv",
    description="two stripe_net adversarially trained as one model",
    members=2,
    settings={"network": Network(backbone="stripe_net"), "steps": 150},
)

MOMENTUM = Suite(
    name="momentum",
    attacks=("mifgsm20", "ifgsm20"),
    description="does momentum help against these models?",
)
