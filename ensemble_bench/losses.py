"""Per-example losses of logits and labels, which attacks ascend; whoever wants a mean takes it in plain sight."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """−log softmax(logits)_y, in [0, ∞)."""
    return F.cross_entropy(logits, y, reduction="none")


def wrong_logits(logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"]) -> Float[Tensor, "batch class"]:
    """The logits with −∞ for class y, so that what is largest is the strongest wrong class."""
    return logits.scatter(1, y[:, None], -torch.inf)


def strongest_wrong(logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"]) -> Int64[Tensor, "batch rank"]:
    """The classes from the strongest wrong one on, of equal ones the first; y stands last."""
    return wrong_logits(logits, y).argsort(dim=1, descending=True, stable=True)


def margin(logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """max over i ≠ y of logits_i, minus logits_y: positive when the image is misclassified, negative when not.

    The negative of Carlini & Wagner's (2017) Z_y − max Z_i, so that attacks ascend it like any loss.
    """
    right = logits.gather(1, y[:, None])[:, 0]
    return wrong_logits(logits, y).amax(dim=1) - right


def dlr(logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Difference of logits ratio (Croce & Hein 2020): margin over the gap from largest to third largest logit.

    Invariant to shifts and positive rescaling of the logits. Below three classes there is no third logit and
    the plain margin is returned.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def margin_targeted(
    logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"], target: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """logits_target − logits_y: positive only when the image is misclassified."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def dlr_targeted(
    logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"], target: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Targeted difference of logits ratio (Croce & Hein 2020): logits_target − logits_y over Z₁ − ½(Z₃ + Z₄).

    Z₁ ≥ Z₂ ≥ … are the sorted logits. Below four classes there is no Z₄ and the plain targeted margin is returned.
    """
    if logits.shape[1] < 4:
        return margin_targeted(logits, y, target)
    top = logits.topk(4, dim=1).values
    return margin_targeted(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def probability_margin(logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """log(1 + p_j − p_y), p_j being the largest probability of a wrong class: positive when y is not the prediction.

    It ranks images as the margin of probabilities p_j − p_y does (Xie et al. 2025, arXiv 2411.15210), and its gradient
    points the same way. That of p_j − p_y itself vanishes where the model is certain; this is computed from logs, as
    p_j + Σ_{i≠y} p_i, and does not.
    """
    wrong = wrong_logits(logits, y)
    log_p_j, log_not_y = wrong.amax(dim=1), wrong.logsumexp(dim=1)
    return torch.logaddexp(log_p_j, log_not_y) - logits.logsumexp(dim=1)


def wrong_probability(logits: Float[Tensor, "batch class"], y: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """log p_j, p_j being the largest probability of a wrong class: in (−∞, 0)."""
    return wrong_logits(logits, y).amax(dim=1) - logits.logsumexp(dim=1)
