"""The pace of a model on this machine, measured: seconds of one image through it."""

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench.attacks.engine import Budget, Worker
from ensemble_bench.models import calling
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.folded import twin_of

SECONDS = 0.5


def seconds_a_pass(
    model: nn.Module,
    image_shape: tuple[int, ...],
    budget: Budget,
    *,
    classes: int,
    images: int = 10**9,
    proposer: nn.Module | None = None,
) -> float:
    """Wall time of one image through the model, forward or backward to the image: a median of a few full batches.

    A batch holds the budget's number of images, or `images` where these are fewer. One batch warms up; then at least
    one, and no more than half a second of them. What runs is `proposer`, by default the folded twin of the model.
    """
    rows = min(budget.batch_size, images)
    x = torch.rand(rows, *image_shape, generator=torch.Generator().manual_seed(0)).to(budget.device)
    y = torch.zeros(rows, dtype=torch.int64, device=budget.device)

    def cross_entropy(ensemble: Ensemble, x_adv: Tensor, _: object) -> tuple[Tensor, Tensor]:
        logits = calling.logits_of(ensemble, x_adv)
        return logits, F.cross_entropy(logits, y, reduction="none")

    state = {"x_adv": x, "x": x, "y": y, "row": y, "i": y}
    times: list[float] = []
    with calling.frozen(model):
        worker = Worker(model, rows, proposer=twin_of(model, x).model if proposer is None else proposer)
        while not times or (sum(times) < SECONDS and len(times) < 20):
            start = time.perf_counter()
            worker.propose(cross_entropy, state, budget.precision)
            if budget.device.type == "cuda":
                torch.cuda.synchronize(budget.device)
            took = time.perf_counter() - start
            if worker.passes > 2 * rows * worker.calls or took > 10 * SECONDS:
                times.append(took)
    return sorted(times)[len(times) // 2] / (2 * rows * worker.calls)
