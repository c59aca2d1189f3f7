"""Attacks for adversarial training: every image takes every step, the whole ensemble is one model."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ensemble_bench import losses, registry
from ensemble_bench.attacks.engine import Loss
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.models.calling import channels_last, frozen
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.folded import folded
from ensemble_bench.threat import ThreatModel

STARTS = ("gaussian", "uniform", "none")


def check_name(name: str) -> str:
    """Return `name` if it is a training attack: "nfgsm", or "ifgsmN" with N steps. Raises UnknownNameError."""
    if name == "nfgsm":
        return name
    try:
        family, _ = registry.split_steps(name)
    except UnknownNameError:
        family = ""
    if family != "ifgsm":
        raise UnknownNameError("training attack", name, ["ifgsm7", "nfgsm"])
    return name


def steps_of(name: str) -> int:
    """Gradient steps of a training attack: 1 of "nfgsm", N of "ifgsmN". Raises UnknownNameError."""
    return 1 if check_name(name) == "nfgsm" else registry.split_steps(name)[1] or 1


def perturb(
    name: str,
    model: nn.Module,
    x: Float[Tensor, "batch *image"],
    y: Int64[Tensor, "batch"],
    threat: ThreatModel,
    *,
    generator: torch.Generator,
    start: str = "uniform",
    loss: Loss = losses.cross_entropy,
    precision: str = "float32",
    part: tuple[int, int] = (0, 1),
    fold: bool = False,
) -> Float[Tensor, "batch *image"]:
    """Adversarial images to train on, from the attack `name` on `model` in eval mode; its state is restored.

    `start` is "uniform" in the ball, "gaussian" with σ = eps/2, projected, or "none". "ifgsmN" is the inner loop
    of Algorithm 1; "nfgsm" is a single step of eps from noise twice as large as the ball, not clipped to it (de Jorge
    et al. 2022, arXiv 2202.01181), which trains about as well as many steps at a fraction of the cost. With
    `part` (i, n), `x` is block i of n of a batch, and gets the noise that it would get as a part of that. With `fold`
    an attack of several steps calls the folded twin of the model, made anew. Raises InvalidValueError for an unknown
    start, and for nfgsm under l2.
    """
    steps = steps_of(name)
    if start not in STARTS:
        raise InvalidValueError(f"start is {start!r}: choose from {', '.join(STARTS)}")
    if name == "nfgsm" and threat.norm != "linf":
        raise InvalidValueError(f"norm is {threat.norm!r}: nfgsm is a linf attack, use ifgsm7")

    def gradient(x_adv: Tensor) -> Tensor:
        x_adv = channels_last(x_adv).detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            value = loss(attacked(x_adv).to(x.dtype), y).sum()
        return torch.autograd.grad(value, x_adv)[0]

    with frozen(model):
        # For a single step, folding costs about what it saves.
        attacked = folded(model) if fold and steps > 1 else model
        if name == "nfgsm":
            return _n_fgsm(x, threat, gradient, _uniform(x, generator, part))
        step_size = (0.25 if steps == 7 else 2.5 / steps) * threat.eps
        x_adv = _start(x, threat, start, generator, part)
        for _ in range(steps):
            x_adv = threat.project(x_adv + step_size * threat.steepest(gradient(x_adv)), x)
        return x_adv


def perturb_members(
    name: str,
    model: Ensemble,
    x: Float[Tensor, "batch *image"],
    y: Int64[Tensor, "batch"],
    threat: ThreatModel,
    *,
    generator: torch.Generator,
    start: str = "uniform",
    precision: str = "float32",
    part: tuple[int, int] = (0, 1),
    fold: bool = False,
) -> Float[Tensor, "member batch *image"]:
    """Adversarial images against each member on its own, as `perturb`, every member's with noise of its own."""
    attack = partial(perturb, name, generator=generator, start=start, precision=precision, part=part, fold=fold)
    return torch.stack([attack(Ensemble([member]), x, y, threat) for member in model.members])


def _whole(x: Tensor, part: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the batch of which `x` is a part."""
    return (len(x) * part[1], *x.shape[1:])


def _uniform(x: Tensor, generator: torch.Generator, part: tuple[int, int]) -> Tensor:
    """Noise uniform in [-1, 1)."""
    noise = torch.rand(_whole(x, part), generator=generator, device=x.device, dtype=x.dtype) * 2 - 1
    return noise.chunk(part[1])[part[0]]


def _start(x: Tensor, threat: ThreatModel, start: str, generator: torch.Generator, part: tuple[int, int]) -> Tensor:
    if start == "gaussian":
        noise = torch.randn(_whole(x, part), generator=generator, device=x.device, dtype=x.dtype)
        return threat.project(x + threat.eps / 2 * noise.chunk(part[1])[part[0]], x)
    return x if start == "none" else threat.random_start(x, _uniform(x, generator, part))


def _n_fgsm(x: Tensor, threat: ThreatModel, gradient: Callable[[Tensor], Tensor], uniform: Tensor) -> Tensor:
    """One steepest step of eps from noise twice as large as the ball; only the image box clips, both of them."""
    noisy = (x + 2 * threat.eps * uniform).clamp(0.0, 1.0)
    return (noisy + threat.eps * threat.steepest(gradient(noisy))).clamp(0.0, 1.0)
