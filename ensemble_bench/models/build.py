"""Build a model from its architecture, its weights fixed by a seed."""

import hashlib
from collections import OrderedDict

import torch
from torch import nn

from ensemble_bench import registry
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.gate import Gate
from ensemble_bench.models.normalise import Normalise


def build(architecture: Architecture, *, seed: int = 0) -> Ensemble:
    """New, initialised model in training mode on the CPU, its weights laid out channels-last (faster there).

    Each member's weights come from (seed, member's index) alone, so member 0 equals the single model of the same seed.
    The global random state stays as it is. Convolutions follow He et al. (2015), fan out; `seed` is any integer.
    """
    model = skeleton(architecture, seed=seed)
    for index, member in enumerate(model.members):
        _initialise(member, _generator(seed, f"member {index}"))
    if model.gate is not None:
        _initialise(model.gate, _generator(seed, "gate"))
        for module in model.gate.modules():
            if isinstance(module, Gate):
                module.start_uniform()
    return model.to(memory_format=torch.channels_last)


def skeleton(architecture: Architecture, device: str = "cpu", *, seed: int = 0) -> Ensemble:
    """Modules of an architecture, not yet initialised; on device "meta" they take neither memory nor time.

    `seed` fixes their weights too, because `build` initialises only the kinds of layers that our backbones have.
    """
    channels = architecture.image_shape[0]
    backbone = registry.resolve("backbone", architecture.backbone)
    options = {"width": architecture.width, "classes": architecture.classes, "in_channels": channels}
    if architecture.depth is not None:
        options["depth"] = architecture.depth
    if architecture.stride != 1:
        options["stride"] = architecture.stride

    def member(index: int) -> nn.Module:
        torch.default_generator.manual_seed(_generator(seed, f"first weights of member {index}").initial_seed())
        return _with_normalisation(architecture, backbone(**options))

    # PyTorch's layers draw their first weights from the global generator.
    with torch.random.fork_rng(devices=[]), torch.device(device):
        members = [member(index) for index in range(architecture.members)]
        gate = None
        if architecture.gated:
            gate = _with_normalisation(architecture, Gate(members=architecture.members, in_channels=channels))
    return Ensemble(members, aggregation=architecture.aggregation, gate=gate)


def _with_normalisation(architecture: Architecture, network: nn.Module) -> nn.Module:
    normalise = Normalise(architecture.mean, architecture.std)
    return nn.Sequential(OrderedDict(normalise=normalise, network=network))


def _generator(seed: int, part: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
            nn.init.zeros_(module.bias)
