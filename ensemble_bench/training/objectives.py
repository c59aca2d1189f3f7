"""Objectives: what training minimises, as functions of (model, x, x_adv, y).

An objective yields the terms of its loss, each a value an example; Algorithm 1 descends their sum. x_adv is None where
nothing is attacked, and has a leading axis of members where each member is attacked on its own. The paper's objective
has a term for x and one for x_adv. An objective whose loss compares the two, such as `trades` and `mart`, yields a
single term; so does one of your own, unless its attribute `terms` says how many (docs/training.md).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.losses import cross_entropy
from ensemble_bench.models.calling import channels_last
from ensemble_bench.models.ensemble import Ensemble

Objective = Callable[[Ensemble, Tensor, Tensor | None, Tensor], Iterator[Tensor]]

ADP_ENTROPY, ADP_DIVERSITY = 2.0, 0.5
TRADES_BETA = 6.0
MART_LAMBDA, MART_MARGIN = 5.0, 1e-4
# Bounds the gradient where members agree; an order above what rounding does to the Gram matrix in float32.
JITTER = 1e-6


def member_logits(
    model: Ensemble, x: Float[Tensor, "*member batch channel row column"]
) -> Float[Tensor, "member batch class"]:
    """Logits of every member, of the same images or each of its own where `x` has a leading axis of members."""
    if x.dim() == 4:
        logits: Tensor = model.member_logits(x)
    else:
        logits = torch.stack([member(channels_last(own)) for member, own in zip(model.members, x, strict=True)])
    return logits.to(x.dtype)


def answers(model: Ensemble, x: Float[Tensor, "*member batch channel row column"]) -> Float[Tensor, "batch class"]:
    """Logits of the ensemble, each member asked about its own images where `x` has a leading axis of members."""
    # No recipe gives each member its own images and a gate, which would have to weight them by one.
    logits: Tensor = model(x) if x.dim() == 4 else model.aggregate(member_logits(model, x), x[0])
    return logits.to(x.dtype)


def ensemble_loss(
    model: Ensemble, x: Float[Tensor, "*member batch channel row column"], y: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Per-example loss of the ensemble's mean probability, −log p̄_y (Eq. 4)."""
    return cross_entropy(answers(model, x), y)


def member_mean_loss(
    model: Ensemble, x: Float[Tensor, "*member batch channel row column"], y: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Per-example mean over members of their own losses: the paper's text where it disagrees with its Eq. 4."""
    return torch.stack([cross_entropy(logits, y) for logits in member_logits(model, x)]).mean(dim=0)


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
    model: Ensemble, x: Float[Tensor, "*member batch channel row column"], y: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Per-example sum of the members' own losses, less 2 H(p̄) and ½ log det G: members trained to diverge.

    Adaptive diversity promoting, with the weights that it was published with (Pang et al. 2019, arXiv 1901.08846). It
    makes an ensemble look robust to attacks on its output; H(p̄) is the entropy of the mean probability in nats.
    """
    logits = member_logits(model, x)
    own_losses = torch.stack([cross_entropy(member, y) for member in logits]).sum(dim=0)
    log_mean = logits.log_softmax(2).logsumexp(0) - math.log(len(logits))
    entropy = -(log_mean.exp() * log_mean).sum(dim=1)
    return own_losses - ADP_ENTROPY * entropy - ADP_DIVERSITY * log_diversity(logits, y)


def averaged(
    loss: Callable[[Ensemble, Tensor, Tensor], Tensor],
    model: Ensemble,
    x: Float[Tensor, "batch channel row column"],
    x_adv: Float[Tensor, "*member batch channel row column"] | None,
    y: Int64[Tensor, "batch"],
    *,
    clean_share: float = 0.5,
) -> Iterator[Float[Tensor, "batch"]]:
    """`clean_share` · loss(x), then the rest of 1 · loss(x_adv); the whole loss(x) without x_adv.

    ½ is Eq. 4 with ρ = 1; 0 learns from x_adv alone, as Madry et al. (2018). Each has its own forward pass and, in
    train mode, its own batch norm statistics, as the paper's two copies that share parameters.
    """
    terms = [(x, 1.0)] if x_adv is None else [(x, clean_share), (x_adv, 1 - clean_share)]
    for images, share in terms:
        if share:
            yield share * loss(model, images, y)


def terms_of(*, adversarial: bool, clean_share: float) -> int:
    """Number of terms that `averaged` yields."""
    return 2 if adversarial and 0 < clean_share < 1 else 1


def trades(
    model: Ensemble,
    x: Float[Tensor, "batch channel row column"],
    x_adv: Float[Tensor, "*member batch channel row column"] | None,
    y: Int64[Tensor, "batch"],
) -> Iterator[Float[Tensor, "batch"]]:
    """The loss on x, and 6 times the divergence of the answers on x_adv from those on x (Zhang et al. 2019).

    The attack is the preset's, on the loss, where theirs climbs the divergence.
    """
    clean, attacked = (answers(model, images).log_softmax(1) for images in (x, _attacked(x_adv)))
    yield cross_entropy(clean, y) + TRADES_BETA * _divergence(clean, attacked)


def mart(
    model: Ensemble,
    x: Float[Tensor, "batch channel row column"],
    x_adv: Float[Tensor, "*member batch channel row column"] | None,
    y: Int64[Tensor, "batch"],
) -> Iterator[Float[Tensor, "batch"]]:
    """The boosted loss on x_adv, and 5 times the divergence from x, weighted by 1 − p_y(x) (Wang et al. 2020).

    The boosted loss is −log p_y − log(1 − p_k) for the strongest wrong class k.
    """
    clean, attacked = (answers(model, images).log_softmax(1) for images in (x, _attacked(x_adv)))
    wrong = attacked.scatter(1, y[:, None], -torch.inf).amax(1).exp()
    # The logarithm is of a little more than 0 where the model is certain of a wrong class, as in their code.
    boosted = cross_entropy(attacked, y) - (1 + MART_MARGIN - wrong).log()
    unsure = 1 - clean.gather(1, y[:, None])[:, 0].exp()
    yield boosted + MART_LAMBDA * unsure * _divergence(clean, attacked)


def _attacked(x_adv: Tensor | None) -> Tensor:
    assert x_adv is not None  # a plan whose recipe attacks nothing is refused
    return x_adv


def _divergence(log_p: Float[Tensor, "batch class"], log_q: Float[Tensor, "batch class"]) -> Float[Tensor, "batch"]:
    """KL(p ‖ q) in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


LOSSES: Mapping[str, Callable[[Ensemble, Tensor, Tensor], Tensor]] = {
    "ensemble": ensemble_loss,
    "member-mean": member_mean_loss,
    "adp": adp_loss,
}


# Objectives whose loss compares x with x_adv: one term, without a share of either.
COMPARING: Mapping[str, Objective] = {"trades": trades, "mart": mart}
OBJECTIVES: Mapping[str, Any] = {**LOSSES, **COMPARING}


def objective_of(chosen: str | Callable[..., Any], *, clean_share: float = 0.5) -> Objective:
    """The objective of a name or a function of (model, x, x_adv, y).

    A loss of LOSSES is averaged over clean and attacked images (see `averaged`). A function of the caller's, or of
    another package, may return its only term, and is held to a value an example.
    """
    if isinstance(chosen, str):
        if chosen in LOSSES:
            return partial(averaged, LOSSES[chosen], clean_share=clean_share)
        if chosen in COMPARING:
            return COMPARING[chosen]
        chosen = cast(Callable[..., Any], registry.resolve("objective", chosen))
    return partial(_checked, chosen)


def _checked(
    objective: Callable[..., Any], model: Ensemble, x: Tensor, x_adv: Tensor | None, y: Tensor
) -> Iterator[Tensor]:
    found = objective(model, x, x_adv, y)
    try:
        terms = iter((found,) if isinstance(found, Tensor) else found)
    except TypeError:
        terms = iter((found,))
    for term in terms:
        if not isinstance(term, Tensor) or term.shape != y.shape:
            shape = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"a {type(term).__name__}"
            raise InvalidValueError(
                f"objective {name_of(objective)!r} gives {shape}: expected a loss for each of {len(y)} images"
            )
        yield term


def name_of(objective: str | Callable[..., Any]) -> str:
    """The name of an objective, of a function its own."""
    return objective if isinstance(objective, str) else getattr(objective, "__name__", type(objective).__name__)


def number_of_terms(chosen: str | Callable[..., Any], *, adversarial: bool, clean_share: float) -> int:
    """Number of terms that an objective yields: for those of LOSSES see `terms_of`, else one, or its own `terms`."""
    if isinstance(chosen, str):
        if chosen in LOSSES:
            return terms_of(adversarial=adversarial, clean_share=clean_share)
        if chosen in COMPARING:
            return 1
        chosen = cast(Callable[..., Any], registry.resolve("objective", chosen))
    return int(getattr(chosen, "terms", 1))
