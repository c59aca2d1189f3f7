"""The twin of a model that attacks call: the same function at less cost, for as long as the weights stay as they are.

Batch norm is folded into convolutions, which saves a tenth to a third of a pass. A twin is exact but for rounding; it
proposes, and the model itself decides what is broken.
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench.models.answers import answer
from ensemble_bench.models.backbones.vgg import VGG16BN
from ensemble_bench.models.calling import channels_last, frozen
from ensemble_bench.models.compiled import compiled
from ensemble_bench.models.ensemble import INTERFACE, Ensemble
from ensemble_bench.models.fold_graph import fold_graph

# Read part by part where the whole cannot be traced: VGG's forward asks for the size of the images.
_COPIED = (nn.Sequential, nn.ModuleList, VGG16BN)

IMAGES = 4
LOGITS_TOLERANCE = 1e-4
"""Largest difference of a twin's logits in float32, in units of the model's largest logit or 1."""
GRADIENT_TOLERANCE = 1e-2
"""Largest ‖difference‖₂/‖gradient‖₂ of the gradient to the images: rounding may turn a ReLU that is all but 0."""


def folded(network: nn.Module) -> nn.Module:
    """A network that computes what `network` computes in eval mode, up to rounding, with batch norm folded away.

    Of an ensemble every member and the gate are folded; all else (`aggregation`, `member_logits`, `aggregate`, …) is as
    it was. Networks that torch.fx cannot trace, or that a call changes, stay as they are, and so does `network` itself
    where there is nothing to fold, or where a module has hooks, which may watch it or change its answers. The twin
    shares what did not change with `network`, and is of its weights at this moment.
    """
    if any(map(_has_hooks, network.modules())):
        return network
    return _folded(network, {})


def _folded(network: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """As `folded`; `known` holds, by id, the twins of modules that were met before."""
    if id(network) not in known:
        known[id(network)] = _fold(network, known)
    return known[id(network)]


def _fold(network: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    if not any(type(module) is nn.BatchNorm2d for module in network.modules()):
        return network
    if not _is_ensemble(network):
        if (twin := _traced(network)) is not None:
            return twin
        # Of other classes a copy might part with something that it keeps, such as a count of its calls.
        if type(network) not in _COPIED:
            return network
    children = {name: child and _folded(child, known) for name, child in network._modules.items()}
    if all(child is network._modules[name] for name, child in children.items()):
        return network
    twin = copy.copy(network)
    twin._modules = children
    return twin


def _traced(network: nn.Module) -> nn.Module | None:
    """As `fold_graph`; None also where it fails, or where a call changes what a module keeps: a graph would not."""
    before = [(module.__dict__, dict(module.__dict__)) for module in network.modules()]
    try:
        twin = fold_graph(network)
    except Exception:  # a trace may fail with whatever foreign code raises
        twin = None
    for now, was in before:
        if now.keys() != was.keys() or any(now[name] is not was[name] for name in was):
            twin = None
            now.clear()
            now.update(was)
    return twin


def _is_ensemble(network: nn.Module) -> bool:
    return isinstance(network, Ensemble) or all(hasattr(network, name) for name in INTERFACE)


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind, None) for kind in kinds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Twin:
    """What attacks call instead of a model: a module that answers as the model does, and how it was made."""

    model: nn.Module
    folded: bool = False
    compiled: bool = False
    note: str = ""
    """Why the twin is not what was asked for; empty where it is."""


def twin_of(model: nn.Module, x: Float[Tensor, "batch *image"], *, compile: bool = False) -> Twin:
    """The folded twin of `model`, compiled if `compile` says so; what does not answer as the model does is not used.

    Logits and the gradient to the images are compared on `IMAGES` images of uniform noise, always the same, with the
    shape, device and type of those in `x`, within `LOGITS_TOLERANCE` and `GRADIENT_TOLERANCE`. The state of the model
    is restored. Raises what the model raises on such noise.
    """
    with frozen(model):
        twin = Twin(model=model)
        if (network := folded(model)) is not model:
            note = _difference(model, network, x)
            twin = replace(twin, note=f"not folded: {note}") if note else Twin(model=network, folded=True)
        if compile:
            network = compiled(twin.model)
            # CUDA graphs warm up, are recorded, and only then replayed.
            note = next(filter(None, (_difference(model, network, x, seed=seed) for seed in range(3))), "")
            twin = replace(twin, note=f"not compiled: {note}") if note else replace(twin, model=network, compiled=True)
    return twin


def _difference(model: nn.Module, twin: nn.Module, x: Tensor, *, seed: int = 0) -> str:
    """As `difference`, on noise of the shape of `x`."""
    noise = torch.rand(IMAGES, *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    return difference(model, twin, noise)


def difference(model: nn.Module, twin: nn.Module, x: Tensor) -> str:
    """In what `twin` differs from `model` on `x` by more than rounding does, in words; empty where in nothing.

    That the twin fails is a difference; what the model raises, this raises too.
    """
    logits, grad = _answers(model, x)
    try:
        logits2, grad2 = _answers(twin, x)
    except Exception as error:  # a compiler, and a trace of foreign code, fails in many ways
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if logits.shape != logits2.shape or (grad is None) != (grad2 is None):
        return "other logits"
    gap = (logits - logits2).abs().max().item()
    bound = LOGITS_TOLERANCE * max(1.0, logits.abs().max().item())
    if not gap <= bound:
        return f"logits differ by {gap:.2g}, more than {bound:.2g}"
    if grad is not None and grad2 is not None:
        gap, length = (torch.linalg.vector_norm(g.double()).item() for g in (grad - grad2, grad))
        if not gap <= GRADIENT_TOLERANCE * length:
            return f"gradients differ by {gap:.2g} of {length:.2g}"
    return ""


def _answers(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits and the gradient to `x` of their sum, each with a weight; a model that draws draws the same every time."""
    torch.manual_seed(0)
    x = channels_last(x).detach().requires_grad_()
    with torch.enable_grad():
        logits = answer(model, x)
        if not logits.requires_grad:
            return logits, None
        weights = torch.linspace(-1, 1, logits.numel(), device=x.device, dtype=logits.dtype).view_as(logits)
        return logits.detach(), torch.autograd.grad((weights * logits).sum(), x)[0]
