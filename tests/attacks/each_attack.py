"""The engine's attacks for tests of all of them."""

import pytest
import torch
from torch import Tensor, nn

from ensemble_bench import ThreatModel, attacks

GRADIENT = (
    "ifgsm5",
    "pgd8",
    "margin8",
    "margin-odi6",
    "pma8",
    "reacg10",
    "apgd10",
    "apgd-dlr10",
    "bypass8",
    "mean-member6",
    "random-member6",
)
CHAINS = ("member-transfer4", "mora1", "malt2")
ATTACKS = (*GRADIENT, *CHAINS, "arc3")
THREATS = (ThreatModel(eps=0.1), ThreatModel(norm="l2", eps=0.5))
# On a linear model no rounding tips a verdict, as batches of other sizes would on one that is trained.
LINEAR = ThreatModel(eps=0.02)
each_attack = pytest.mark.parametrize("name", ATTACKS)
each_gradient_attack = pytest.mark.parametrize("name", GRADIENT)


def get(name: str, **settings: object) -> attacks.Attack:
    """The attack, with those of the settings that it has: ARC has no restarts, and always stops early."""
    return attacks.get(name, **({} if name.startswith("arc") else settings))


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)
