"""How attacks call a model: frozen, in batches that fit, with every answer checked and every image counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.threat import ThreatModel

if TYPE_CHECKING:
    from ensemble_bench.attacks.attack import GradientAttack, State


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode with frozen parameters; on leaving, also by an exception, all is as it was.

    Restored are every submodule's train/eval flag, every parameter's requires_grad, and torch's global random
    state. Parameters' .grad is never touched.
    """
    training = [(m, m.training) for m in model.modules()]
    trainable = [(p, p.requires_grad) for p in model.parameters()]
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            model.eval()
            for p, _ in trainable:
                p.requires_grad_(False)
            yield
        finally:
            for m, flag in training:
                m.training = flag
            for p, flag in trainable:
                p.requires_grad_(flag)


def channels_last(x: Tensor) -> Tensor:
    """Images in the memory layout that convolutions run fastest in (2.6 times on a CPU); other tensors unchanged."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def logits_of(model: nn.Module, x: Tensor) -> Float[Tensor, "batch class"]:
    """Logits of `x`, in its dtype even under autocast. Raises AttackError unless finite and one row an image."""
    logits: Tensor = model(channels_last(x))
    return _checked(logits, x, "(batch, class)")


def member_logits_of(model: Any, x: Tensor) -> Float[Tensor, "member batch class"]:
    """Logits of every member, as `logits_of`; a model without `member_logits` is its own only member."""
    if not hasattr(model, "member_logits"):
        return logits_of(model, x)[None]
    logits: Tensor = model.member_logits(channels_last(x))
    return _checked(logits, x, "(member, batch, class)")


def aggregated(
    model: Any, member_logits: Float[Tensor, "member batch class"], x: Tensor
) -> Float[Tensor, "batch class"]:
    """Logits of the model, from its members' at `x`, without calling the members again."""
    if not hasattr(model, "aggregate"):
        return member_logits[0]
    logits: Tensor = model.aggregate(member_logits, channels_last(x))
    return _checked(logits, x, "(batch, class)")


def _checked(logits: Tensor, x: Tensor, axes: str) -> Tensor:
    """`logits` in the dtype of `x`; raises AttackError unless they have these axes and are finite."""
    if logits.dim() != axes.count(",") + 1 or logits.shape[-2] != len(x):
        raise AttackError(f"the model gave logits of shape {tuple(logits.shape)} for {len(x)} images: expected {axes}")
    if not logits.isfinite().all():
        raise AttackError("the model gave NaN or infinite logits: no verdict can rest on them")
    return logits.to(x.dtype)


def check(attack: str, threat: ThreatModel, x_adv: Tensor, x: Tensor) -> None:
    """As `threat.check`, its error naming the attack."""
    try:
        threat.check(x_adv, x)
    except AttackError as error:
        raise AttackError(f"{attack}: {error}") from None


def gradient(total: Tensor, x: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Gradient of a sum over images with respect to them; raises AttackError unless there is one and it is finite."""
    if not total.requires_grad:
        raise AttackError("the model's output does not depend on its input in a differentiable way")
    (grad,) = torch.autograd.grad(total, x, retain_graph=retain_graph)
    if not grad.isfinite().all():
        raise AttackError("the gradient holds NaN or infinity: an attack that cannot move must not pass for robustness")
    return grad


def verdict(logits: Float[Tensor, "batch class"], y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether every image is misclassified, and its margin."""
    return logits.argmax(dim=1) != y, losses.margin(logits, y)


def judge_of(model: Any) -> nn.Module:
    """The model that decides what counts as broken: of an ensemble that draws a member, the members' majority.

    A single draw would call an image broken as soon as luck helps; by majority it is broken when the expected
    accuracy on it falls below one half.
    """
    if getattr(model, "aggregation", None) == "draw":
        judge: nn.Module = model.aggregate_as("vote")
        return judge
    whole: nn.Module = model
    return whole


@dataclass
class Worker:
    """Runs a model in batches that halve when memory runs out, and counts what it runs."""

    model: nn.Module
    batch_size: int
    passes: int = 0

    def __post_init__(self) -> None:
        self.judge = judge_of(self.model)

    def map(self, f: Callable[[slice], tuple[Tensor, ...]], rows: int) -> tuple[Tensor, ...]:
        """Concatenate f over slices of `rows` rows that are no larger than the batch size."""
        while True:
            try:
                starts = range(0, max(rows, 1), self.batch_size)
                parts = [f(slice(a, min(a + self.batch_size, rows))) for a in starts]
                return tuple(torch.cat(column) for column in zip(*parts, strict=True))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
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

        self.passes += len(x)
        logits = self.map(forward, len(x))[0]
        if len(y) and not 0 <= y.min() <= y.max() < logits.shape[1]:
            span = f"{y.min().item()} to {y.max().item()}"
            raise InvalidValueError(f"labels span {span}: the model has classes 0 to {logits.shape[1] - 1}")
        return logits

    def decide(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Exact verdict on every image: misclassified or not, and the margin."""
        if len(x) == 0:
            return y.bool(), x.new_zeros(0)
        return verdict(self.logits(x, y), y)

    def value(self, attack: "GradientAttack", s: "State") -> Tensor:
        """What the attack ascends, at s["x_adv"], in full precision."""

        def forward(rows: slice) -> tuple[Tensor, ...]:
            part = select(s, rows)
            with torch.no_grad():
                values = [attack.evaluate(self.model, part["x_adv"], part)[1] for _ in range(attack.draws)]
            return (torch.stack(values).mean(dim=0),)

        self.passes += attack.draws * len(s["row"])
        return self.map(forward, len(s["row"]))[0]

    def propose(self, attack: "GradientAttack", s: "State", precision: str) -> tuple[Tensor, Tensor, Tensor]:
        """Whether every image looks broken, its value and the value's gradient, in `precision`.

        With several draws, value and gradient are means over as many calls of the model, and one call that looks
        broken is enough.
        """

        def value_and_grad(rows: slice) -> tuple[Tensor, ...]:
            part = select(s, rows)
            x_adv = part["x_adv"].detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits, value = attack.evaluate(self.model, x_adv, part)
                total = value.sum()
            grad = gradient(total, x_adv)
            return logits.detach().argmax(dim=1) != part["y"], value.detach(), grad

        x = s["x_adv"]
        if not x.isfinite().all():
            raise AttackError(f"{attack.name}: x_adv holds NaN or infinite pixels")
        self.passes += 2 * attack.draws * len(x)
        looks_broken, value, grad = self.map(value_and_grad, len(x))
        for _ in range(attack.draws - 1):
            again, more_value, more_grad = self.map(value_and_grad, len(x))
            looks_broken, value, grad = looks_broken | again, value + more_value, grad + more_grad
        return looks_broken, value / attack.draws, grad / attack.draws


def select(s: "State", rows: Tensor | slice) -> "State":
    """The same rows of everything in a state."""
    return {k: v[rows] for k, v in s.items()}


def concatenate(states: "list[State]") -> "State":
    """One state of the rows of all."""
    return {k: torch.cat([s[k] for s in states]) for k in states[0]}
