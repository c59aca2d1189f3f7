"""The worker: runs a model on images in batches that fit in memory, and counts the images."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.attacks.engine.state import State, select
from ensemble_bench.attacks.engine.task import Task
from ensemble_bench.errors import InvalidValueError, is_out_of_memory
from ensemble_bench.models.calling import gradient, judge_of, logits_of, verdict
from ensemble_bench.models.ensemble import Ensemble, as_ensemble
from ensemble_bench.models.randomised import calls_of

Evaluate = Callable[[Ensemble, Tensor, State], tuple[Tensor, Tensor]]
"""Of a model, x_adv and the state: logits (batch, class) that decide, and the per-image value (batch) to ascend."""


BF16_ERROR = 2.0**-7
"""What rounding to bf16, of 8 bits, may do to a margin, in units of the largest logit less the smallest."""


class Worker:
    """Runs a model in batches that halve when memory runs out.

    Here every model becomes an `Ensemble`, so that attacks find members in each. `model` decides; proposals and their
    values are those of `proposer`, by default the same. `passes` counts images pushed through either, forward or
    backward; `calls` and `judged` are those behind an answer of the proposer and of what decides, several
    where these are means over draws.
    """

    def __init__(self, model: nn.Module, batch_size: int, *, proposer: nn.Module | None = None) -> None:
        self.model = as_ensemble(model)
        self.judge = judge_of(self.model)
        self.proposer = self.model if proposer is None else as_ensemble(proposer)
        self.calls, self.judged = calls_of(self.proposer), calls_of(self.judge)
        self.batch_size = batch_size
        self.passes = 0

    def map(self, f: Callable[[slice], tuple[Tensor, ...]], rows: int) -> tuple[Tensor, ...]:
        """Concatenate f over slices of `rows` rows that are no larger than the batch size."""
        while True:
            try:
                starts = range(0, max(rows, 1), self.batch_size)
                parts = [f(slice(a, min(a + self.batch_size, rows))) for a in starts]
                return tuple(torch.cat(column) for column in zip(*parts, strict=True))
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler, whose traceback keeps the tensors of the failed batch alive.
            self.batch_size = (self.batch_size + 1) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def logits(self, x: Tensor, y: Tensor) -> Float[Tensor, "batch class"]:
        """Logits that decide; raises InvalidValueError for labels `y` that are none of the model's classes."""

        def forward(rows: slice) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (logits_of(self.judge, x[rows]),)

        self.passes += self.judged * len(x)
        logits = self.map(forward, len(x))[0]
        if len(y) and not 0 <= y.min() <= y.max() < logits.shape[1]:
            span = f"{y.min().item()} to {y.max().item()}"
            raise InvalidValueError(f"labels span {span}: the model has classes 0 to {logits.shape[1] - 1}")
        return logits

    def clean_logits(self, task: Task) -> Float[Tensor, "batch class"]:
        """Logits that decide on the images of a task before any attack, asked for unless the task tells them."""
        return self.logits(task.x, task.y) if task.clean_logits is None else task.clean_logits

    def decide(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Exact verdict on every image: misclassified or not, and the margin."""
        if len(x) == 0:
            return y.bool(), x.new_zeros(0)
        return verdict(self.logits(x, y), y)

    def look(self, evaluate: Evaluate, s: State, precision: str) -> tuple[Tensor, Tensor]:
        """As `propose`, without the gradient."""

        def looked(rows: slice) -> tuple[Tensor, ...]:
            part = select(s, rows)
            x_adv = part["x_adv"]
            with torch.no_grad(), torch.autocast(x_adv.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits, value = evaluate(self.proposer, x_adv, part)
            return _looks_broken(logits, part["y"], precision), value

        self.passes += self.calls * len(s["row"])
        looks_broken, value = self.map(looked, len(s["row"]))
        return looks_broken, value

    def propose(self, evaluate: Evaluate, s: State, precision: str) -> tuple[Tensor, Tensor, Tensor]:
        """Whether every image looks broken, its value and the value's gradient, in `precision`.

        In bf16 an image also looks broken whose margin is within `BF16_ERROR`, so that none is missed midway.
        """

        def value_and_grad(rows: slice) -> tuple[Tensor, ...]:
            part = select(s, rows)
            x_adv = part["x_adv"].detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits, value = evaluate(self.proposer, x_adv, part)
                total = value.sum()
            grad = gradient(total, x_adv)
            return _looks_broken(logits.detach(), part["y"], precision), value.detach(), grad

        x = s["x_adv"]
        self.passes += 2 * self.calls * len(x)
        looks_broken, value, grad = self.map(value_and_grad, len(x))
        return looks_broken, value, grad


def _looks_broken(logits: Float[Tensor, "batch class"], y: Tensor, precision: str) -> Tensor:
    """Whether the exact verdict on an image may be that it is broken."""
    wrong = logits.argmax(dim=1) != y
    if precision != "bf16":
        return wrong
    return wrong | (losses.margin(logits, y) > -BF16_ERROR * (logits.amax(dim=1) - logits.amin(dim=1)))
