"""Algorithm 1 of Grefenstette et al. (2018): several networks trained as one model, against attacks on all of them."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.training import interrupts
from ensemble_bench.training.objectives import Objective
from ensemble_bench.training.state import TrainingState


def algorithm1(
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    *,
    steps: int,
    sample: Callable[[int], tuple[Tensor, Tensor]],
    attack: Callable[[Tensor, Tensor, int], Tensor] | None,
    objective: Objective,
    rate: Callable[[int], float] | None = None,
    precision: str = "float32",
    mean: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[int]:
    """Train `model` from time-step `state.step` to `steps`; yields the number of steps taken, after each of them.

    `sample(t)` is the minibatch (x, y) of time-step t, and `attack(x, y, t)` its x_adv, the inner loop of the paper,
    with a leading axis of members where each is attacked on its own; without an attack the model learns from clean
    images alone. `rate(t)` is the learning rate η, by default the optimizer's own. `precision` is "float32" or "bf16".
    `mean(loss)` is the mean over the processes that share the minibatch, where there are several.
    Raises AttackError when the loss is not finite.
    """
    for t in range(state.step, steps):
        x, y = sample(t)
        x_adv = None if attack is None else attack(x, y, t)
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(t)
        with interrupts.deferred():
            loss = update(model, optimizer, x, x_adv, y, objective=objective, precision=precision)
            state.took_step(loss if mean is None else mean(loss))
        yield t + 1


def update(
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    x: Float[Tensor, "batch channel row column"],
    x_adv: Float[Tensor, "*member batch channel row column"] | None,
    y: Int64[Tensor, "batch"],
    *,
    objective: Objective,
    precision: str = "float32",
) -> Float[Tensor, ""]:
    """One step of `optimizer` on the mean of `objective` over the batch; returns that mean, detached.

    Each term is differentiated before the next is computed, so that one graph at a time is in memory.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    # No cache: weights cast for one term would keep a part of its graph for the next.
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        for term in objective(model, x, x_adv, y):
            loss = term.mean()
            with torch.autocast(x.device.type, enabled=False):
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
    optimizer.step()
    return total
