"""The two lines of Algorithm 1 that learn: ½(L(model(x), y) + L(model(x_adv), y)), and a step of SGD on it."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ensemble_bench.losses import cross_entropy
from ensemble_bench.models.ensemble import Ensemble

Objective = Callable[[Ensemble, Tensor, Tensor], Tensor]


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


OBJECTIVES: Mapping[str, Objective] = {"ensemble": ensemble_loss, "member-mean": member_mean_loss}


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
