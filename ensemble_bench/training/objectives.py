"""The two lines of Algorithm 1 that learn: ½(L(model(x), y) + L(model(x_adv), y)), and a step of SGD on it."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ensemble_bench.losses import cross_entropy
from ensemble_bench.models.ensemble import Ensemble

Objective = Callable[[Ensemble, Tensor, Tensor], Tensor]

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


OBJECTIVES: Mapping[str, Objective] = {"ensemble": ensemble_loss, "member-mean": member_mean_loss, "adp": adp_loss}


def update(
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    inputs: list[Float[Tensor, "batch channel row column"]],
    y: Int64[Tensor, "batch"],
    *,
    objective: Objective = ensemble_loss,
    precision: str = "float32",
) -> Float[Tensor, ""]:
    """One step of `optimizer` on the mean loss over `inputs`, [x] or [x, x_adv]; returns that loss, detached.

    Every input has its own forward pass in train mode and batch norm statistics of its own, as the paper's two
    copies that share parameters. Each is differentiated at once, so that one graph at a time is in memory.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=inputs[0].dtype, device=y.device)
    for x in inputs:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(model, x, y).mean() / len(inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    optimizer.step()
    return total
