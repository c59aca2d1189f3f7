"""How a model is called: frozen, channels last, with every answer checked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.models.answers import answer
from ensemble_bench.models.ensemble import Ensemble


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put the train or eval mode of every submodule back on leaving, also by an exception."""
    # Frozen TorchScript has no mode, nor needs one.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def to_eval(model: nn.Module) -> None:
    """Put `model` in eval mode; an exported program, whose graph is fixed and which takes no mode, stays as it is."""
    try:
        model.eval()
    except NotImplementedError:
        for module in model.modules():
            module.training = False


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode with frozen parameters; on leaving, also by an exception, all is as it was.

    Restored are every submodule's train/eval flag, every parameter's requires_grad, and torch's global random
    state. Parameters' .grad is never touched. Gradients can be taken inside, also where the caller is in inference
    mode. Raises InvalidValueError for weights that were made there.
    """
    if any(p.is_inference() for p in model.parameters()):
        raise InvalidValueError(
            "the model's weights were made in torch.inference_mode: make or load it outside of that"
        )
    trainable = [(p, p.requires_grad) for p in model.parameters()]
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.inference_mode(False), torch.random.fork_rng(devices=devices), modes_kept(model):
        try:
            to_eval(model)
            for p, _ in trainable:
                p.requires_grad_(False)
            yield
        finally:
            for p, flag in trainable:
                p.requires_grad_(flag)


def channels_last(x: Tensor) -> Tensor:
    """Images in the memory layout that convolutions run fastest in (2.6 times on a CPU); other tensors unchanged."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def logits_of(model: nn.Module, x: Tensor) -> Float[Tensor, "batch class"]:
    """Logits of `x`, in its dtype even under autocast. Raises AttackError unless finite and one row an image."""
    return _checked(answer(model, channels_last(x)), x, "(batch, class)")


def member_logits_of(model: Ensemble, x: Tensor) -> Float[Tensor, "member batch class"]:
    """Logits of every member, as `logits_of`."""
    return _checked(model.member_logits(channels_last(x)), x, "(member, batch, class)")


def aggregated(
    model: Ensemble, member_logits: Float[Tensor, "member batch class"], x: Tensor
) -> Float[Tensor, "batch class"]:
    """Logits of the model, from its members' at `x`, without calling the members again."""
    return _checked(model.aggregate(member_logits, channels_last(x)), x, "(batch, class)")


def _checked(logits: Tensor, x: Tensor, axes: str) -> Tensor:
    """`logits` in the dtype of `x`; raises AttackError unless they have these axes and are finite."""
    if logits.dim() != axes.count(",") + 1 or logits.shape[-2] != len(x):
        raise AttackError(f"the model gave logits of shape {tuple(logits.shape)} for {len(x)} images: expected {axes}")
    if not all_finite(logits):
        raise AttackError("the model gave NaN or infinite logits: no verdict can rest on them")
    return logits.to(x.dtype)


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    # A sum reads them once, where isfinite() makes three tensors of their size; finite ones may still overflow it.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def gradient(total: Tensor, x: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Gradient of a sum over images with respect to them; raises AttackError unless there is one and it is finite."""
    if not total.requires_grad:
        raise AttackError("the model's output does not depend on its input in a differentiable way")
    (grad,) = torch.autograd.grad(total, x, retain_graph=retain_graph)
    if not all_finite(grad):
        raise AttackError("the gradient holds NaN or infinity: an attack that cannot move must not pass for robustness")
    return grad


def verdict(logits: Float[Tensor, "batch class"], y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether every image is misclassified, and its margin."""
    return logits.argmax(dim=1) != y, losses.margin(logits, y)


def judge_of(model: Ensemble) -> Ensemble:
    """The model that decides whether an image is broken: of an ensemble that draws a member, the members' vote.

    A single draw would call an image broken as soon as luck helps; by vote it is broken when some other class is more
    likely than the right one, so that expected accuracy on it is one half or less, and may be so on one that stands.
    """
    return model.aggregate_as("vote") if model.aggregation == "draw" else model
