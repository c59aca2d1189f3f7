"""Objectives: what training minimises, as functions of (model, x, x_adv, y).

An objective yields the terms of its loss, each a value an example; Algorithm 1 descends their sum. x_adv is None where
nothing is attacked. The paper's objective has a term for x and one for x_adv. An objective whose loss compares the
two, such as TRADES (Zhang et al. 2019) and MART (Wang et al. 2020), yields a single term:

    def trades(model, x, x_adv, y):
        log_clean, log_adv = model(x).log_softmax(1), model(x_adv).log_softmax(1)
        yield cross_entropy(log_clean, y) + 6 * (log_clean.exp() * (log_clean - log_adv)).sum(1)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ensemble_bench.losses import cross_entropy
from ensemble_bench.models.ensemble import Ensemble

Objective = Callable[[Ensemble, Tensor, Tensor | None, Tensor], Iterator[Tensor]]

ADP_ENTROPY, ADP_DIVERSITY = 2.0, 0.5
# Bounds the gradient where members agree; an order above what rounding does to the Gram matrix in float32.
JITTER = 1e-6


def ensemble_loss(
    model: Ensemble, x: Float[Tensor, "batch channel row column"], y: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Per-example loss of the ensemble's mean probability, −log p̄_y (Eq. 4)."""
    return cross_entropy(model(x).to(x.dtype), y)


def member_mean_loss(
    model: Ensemble, x: Float[Tensor, "batch channel row column"], y: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Per-example mean over members of their own losses: the paper's text where it disagrees with its Eq. 4."""
    return torch.stack([cross_entropy(logits.to(x.dtype), y) for logits in model.member_logits(x)]).mean(dim=0)


def log_diversity(logits: Float[Tensor, "member batch class"], y: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Log of the squared volume that the members' predictions of the wrong classes span: log det(G + JITTER · I).

    G is the Gram matrix (member x member) of their probabilities without class y, each scaled to length 1: det G is
    in [0, 1], 1 where they are orthogonal, 0 where two agree or members outnumber the wrong classes. Works in the
    logits' precision, float32 or better, also under autocast (Pang et al. 2019, arXiv 1901.08846, section 3.2).
    """
    wrong = logits.scatter(2, y[None, :, None].expand(len(logits), -1, -1), -torch.inf)
    # Scaled as logarithms: the probabilities of a confident member would vanish in float32 before their ratios do.
    unit = (wrong - (2 * wrong).logsumexp(2, keepdim=True) / 2).exp()
    # Not a matrix product, which autocast would take in bfloat16.
    gram = (unit[:, None] * unit[None]).sum(3).permute(2, 0, 1)
    log_det: Tensor = torch.linalg.slogdet(gram + JITTER * torch.eye(len(logits)).to(gram)).logabsdet
    return log_det


def adp_loss(
    model: Ensemble, x: Float[Tensor, "batch channel row column"], y: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Per-example sum of the members' own losses, less 2 H(p̄) and ½ log det G: members trained to diverge.

    Adaptive diversity promoting, with the weights that it was published with (Pang et al. 2019, arXiv 1901.08846). It
    makes an ensemble look robust to attacks on its output; H(p̄) is the entropy of the mean probability in nats.
    """
    logits = model.member_logits(x).to(x.dtype)
    own_losses = torch.stack([cross_entropy(member, y) for member in logits]).sum(dim=0)
    log_mean = logits.log_softmax(2).logsumexp(0) - math.log(len(logits))
    entropy = -(log_mean.exp() * log_mean).sum(dim=1)
    return own_losses - ADP_ENTROPY * entropy - ADP_DIVERSITY * log_diversity(logits, y)


def averaged(
    loss: Callable[[Ensemble, Tensor, Tensor], Tensor],
    model: Ensemble,
    x: Float[Tensor, "batch channel row column"],
    x_adv: Float[Tensor, "batch channel row column"] | None,
    y: Int64[Tensor, "batch"],
) -> Iterator[Float[Tensor, "batch"]]:
    """½ loss(x), then ½ loss(x_adv): Eq. 4 with ρ = 1; the whole loss(x) without x_adv.

    Each has its own forward pass and, in train mode, its own batch norm statistics, as the paper's two copies that
    share parameters.
    """
    inputs = [x] if x_adv is None else [x, x_adv]
    for images in inputs:
        yield loss(model, images, y) / len(inputs)


OBJECTIVES: Mapping[str, Objective] = {
    "ensemble": partial(averaged, ensemble_loss),
    "member-mean": partial(averaged, member_mean_loss),
    "adp": partial(averaged, adp_loss),
}
