"""The one loop that runs every attack: survivors only, full batches, cheap proposals, exact decisions.

An image holds a slot of the batch until it is broken or has taken its steps; then the next image takes the slot.
Nothing is spent on an image that is already broken, and results do not depend on batch size or order, because
every image carries its own iteration counter, state and noise.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.attacks import randomness
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.threat import ThreatModel

if TYPE_CHECKING:
    from ensemble_bench.attacks.attack import GradientAttack, State

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attack did to every image, rows as given."""

    x_adv: Float[Tensor, "batch *image"]
    broken: Bool[Tensor, "batch"]
    """Misclassified at `x_adv` by the model in the images' own precision."""
    steps: Int64[Tensor, "batch"]
    """Iterations until broken (0: the clean image or its random start), or all of them."""
    margin: Float[Tensor, "batch"]
    """Largest wrong logit minus the right one at `x_adv`; positive when broken."""
    zero_gradients: int = 0
    """Images whose gradient at the start was exactly zero: a sign of masking."""
    passes: int = 0
    """Images pushed through the model, forward or backward, proposals and decisions together."""


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
    if logits.dim() != 2 or len(logits) != len(x):
        raise AttackError(
            f"the model gave logits of shape {tuple(logits.shape)} for {len(x)} images: expected (batch, class)"
        )
    if not logits.isfinite().all():
        raise AttackError("the model gave NaN or infinite logits: no verdict can rest on them")
    return logits.to(x.dtype)


@dataclass
class Worker:
    """Runs a model in batches that halve when memory runs out, and counts what it runs."""

    model: nn.Module
    batch_size: int
    passes: int = 0

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

    def decide(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Exact verdict on every image: misclassified or not, and the margin."""
        if len(x) == 0:
            return y.bool(), x.new_zeros(0)

        def forward(rows: slice) -> tuple[Tensor, ...]:
            with torch.no_grad():
                logits = self.logits(x[rows], y[rows])
            return logits.argmax(dim=1) != y[rows], losses.margin(logits, y[rows])

        self.passes += len(x)
        wrong, margin = self.map(forward, len(x))
        return wrong, margin

    def predict(self, x: Tensor, y: Tensor) -> Tensor:
        """Predicted class of every image; `y` only tells which classes there must be."""

        def forward(rows: slice) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (self.logits(x[rows], y[rows]).argmax(dim=1),)

        self.passes += len(x)
        return self.map(forward, len(x))[0]

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits of `x`; raises InvalidValueError for labels that are none of the model's classes."""
        logits = logits_of(self.model, x)
        if not 0 <= y.min() <= y.max() < logits.shape[1]:
            span = f"{y.min().item()} to {y.max().item()}"
            raise InvalidValueError(f"labels span {span}: the model has classes 0 to {logits.shape[1] - 1}")
        return logits

    def value(self, attack: "GradientAttack", s: "State") -> Tensor:
        """What the attack ascends, at s["x_adv"], in full precision."""

        def forward(rows: slice) -> tuple[Tensor, ...]:
            part = _select(s, rows)
            with torch.no_grad():
                return (attack.evaluate(self.model, part["x_adv"], part)[1],)

        self.passes += len(s["row"])
        return self.map(forward, len(s["row"]))[0]

    def propose(self, attack: "GradientAttack", s: "State", precision: str) -> tuple[Tensor, Tensor, Tensor]:
        """Whether every image looks broken, its value and the value's gradient, in `precision`."""

        def value_and_grad(rows: slice) -> tuple[Tensor, ...]:
            part = _select(s, rows)
            x_adv = part["x_adv"].detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits, value = attack.evaluate(self.model, x_adv, part)
                total = value.sum()
            if not value.requires_grad:
                raise AttackError("the model's output does not depend on its input in a differentiable way")
            (grad,) = torch.autograd.grad(total, x_adv)
            return logits.detach().argmax(dim=1) != part["y"], value.detach(), grad

        x = s["x_adv"]
        self.passes += 2 * len(x)
        looks_broken, value, grad = self.map(value_and_grad, len(x))
        if not grad.isfinite().all():
            raise AttackError(
                "the gradient holds NaN or infinity: an attack that cannot move must not pass for robustness"
            )
        return looks_broken, value, grad


def run(
    attack: "GradientAttack",
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    seed: int,
    ids: Tensor | None,
    batch_size: int,
    precision: str,
    on_done: Callable[[int], None] | None = None,
) -> Outcome:
    """Run `attack` on all images, with its restarts; see `Attack.__call__` for the arguments and errors."""
    ids = torch.arange(len(x)) if ids is None else ids.cpu()
    validate(x, y, ids, batch_size, precision)
    with frozen(model):
        worker = Worker(model, batch_size)
        broken, margin = worker.decide(x, y)
        best = _Progress(x_adv=x.clone(), broken=broken, steps=torch.zeros_like(y), margin=margin)
        for restart in range(attack.restarts):
            rows = (~best.broken | (not attack.stop_early)).nonzero()[:, 0]

            def start(fresh: Tensor, restart: int = restart) -> Tensor:
                if not attack.random_start:
                    return x[fresh]
                noise = randomness.uniform(
                    tuple(x.shape[1:]), ids[fresh.cpu()], seed=seed, stream=attack.name, restart=restart
                )
                return threat.random_start(x[fresh], noise.to(x))

            found = _search(attack, worker, x, y, threat, rows, start, precision, on_done)
            best.update(found, rows, always=restart == 0)
        _check(attack, threat, best.x_adv, x)
    return Outcome(
        x_adv=best.x_adv,
        broken=best.broken,
        steps=best.steps,
        margin=best.margin,
        zero_gradients=best.zero_gradients,
        passes=worker.passes,
    )


def validate(x: Tensor, y: Tensor, ids: Tensor, batch_size: int, precision: str) -> None:
    """Raise InvalidValueError, naming the value, unless these are images, labels and settings an attack can take."""
    if len(x) != len(y) or len(x) != len(ids):
        raise InvalidValueError(f"{len(x)} images, {len(y)} labels and {len(ids)} ids: expected as many of each")
    validate_settings(batch_size, precision)
    if not x.is_floating_point():
        raise InvalidValueError(f"images have dtype {x.dtype}: expected floating point in [0, 1]")
    if y.dtype != torch.int64 or y.dim() != 1:
        raise InvalidValueError(f"labels have dtype {y.dtype} and shape {tuple(y.shape)}: expected int64 of shape (n,)")
    if len(x) == 0:
        return
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):
        raise InvalidValueError(f"images span [{low:.6g}, {high:.6g}]: expected values in [0, 1]")


def validate_settings(batch_size: int, precision: str) -> None:
    """Raise InvalidValueError unless an attack can run in these batches and this precision."""
    if batch_size < 1:
        raise InvalidValueError(f"batch_size is {batch_size}: expected at least 1")
    if precision not in PRECISIONS:
        raise InvalidValueError(f"precision is {precision!r}: choose from {', '.join(PRECISIONS)}")


@dataclass
class _Progress:
    """Working copy of an Outcome."""

    x_adv: Tensor
    broken: Tensor
    steps: Tensor
    margin: Tensor
    zero_gradients: int = 0

    def put(self, rows: Tensor, x_adv: Tensor, broken: Tensor, steps: Tensor, margin: Tensor) -> None:
        self.x_adv[rows], self.broken[rows], self.steps[rows], self.margin[rows] = x_adv, broken, steps, margin

    def update(self, other: "_Progress", rows: Tensor, *, always: bool) -> None:
        """Take over the `rows` of `other` that it broke or brought nearer to it (or all of them)."""
        r = rows if always else rows[other.broken[rows] | (other.margin[rows] > self.margin[rows])]
        self.put(r, other.x_adv[r], other.broken[r], other.steps[r], other.margin[r])
        self.zero_gradients += other.zero_gradients


def _search(
    attack: "GradientAttack",
    worker: Worker,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    waiting: Tensor,
    start: Callable[[Tensor], Tensor],
    precision: str,
    on_done: Callable[[int], None] | None,
) -> _Progress:
    """One restart of `attack` on the rows `waiting`: the loop over slots."""
    found = _Progress(
        x_adv=x.clone(),
        broken=torch.zeros_like(y, dtype=torch.bool),
        steps=torch.zeros_like(y),
        margin=x.new_zeros(len(x)),
    )
    spent: list[State] = []
    total = len(waiting)
    s = _fresh(attack, x, y, threat, waiting[:0], start)
    while len(waiting) + len(s["row"]):
        room = max(worker.batch_size - len(s["row"]), 0)
        if room and len(waiting):
            s = _concatenate([s, _fresh(attack, x, y, threat, waiting[:room], start)])
            waiting = waiting[room:]
        looks_broken, value, grad = worker.propose(attack, s, precision)
        found.zero_gradients += int(((s["i"] == 0) & (grad.flatten(1) == 0).all(dim=1)).sum())

        if attack.stop_early and looks_broken.any():
            broken = _confirm(attack, worker, s, looks_broken, threat, found)
            s, value, grad = _select(s, ~broken), value[~broken], grad[~broken]
        if attack.keep == "best":
            s["better"] = better = value > s["best_loss"]
            s["best_x"][better] = s["x_adv"][better]
            s["best_loss"] = torch.maximum(value, s["best_loss"])
        attack.step(s, value, grad, threat)
        s["i"] = s["i"] + 1
        done = s["i"] >= attack.steps
        if done.any():
            spent.append(_select(s, done))
            s = _select(s, ~done)
            if sum(len(part["row"]) for part in spent) >= worker.batch_size:
                _judge_spent(attack, worker, _concatenate(spent), threat, found)
                spent.clear()
        if on_done is not None:
            on_done(total - len(waiting) - len(s["row"]))
    if spent:
        _judge_spent(attack, worker, _concatenate(spent), threat, found)
    return found


def _fresh(
    attack: "GradientAttack", x: Tensor, y: Tensor, threat: ThreatModel, rows: Tensor, start: Callable[[Tensor], Tensor]
) -> "State":
    """State of images that take a slot."""
    s = {"row": rows, "x": x[rows], "y": y[rows], "x_adv": start(rows), "i": torch.zeros_like(rows)}
    if attack.keep == "best":
        s["best_x"] = s["x_adv"].clone()
        s["best_loss"] = x.new_full((len(rows),), -torch.inf)
        s["better"] = torch.zeros_like(rows, dtype=torch.bool)
    attack.init(s, threat)
    return s


def _confirm(
    attack: "GradientAttack",
    worker: Worker,
    s: "State",
    looks_broken: Tensor,
    threat: ThreatModel,
    found: _Progress,
) -> Tensor:
    """Decide exactly which proposals are broken, write those down and return their mask."""
    t = _select(s, looks_broken)
    _check(attack, threat, t["x_adv"], t["x"])
    wrong, margin = worker.decide(t["x_adv"], t["y"])
    found.put(t["row"][wrong], t["x_adv"][wrong], wrong[wrong], t["i"][wrong], margin[wrong])
    broken = looks_broken.clone()
    broken[looks_broken] = wrong
    return broken


def _judge_spent(attack: "GradientAttack", worker: Worker, s: "State", threat: ThreatModel, found: _Progress) -> None:
    """Decide on the images that took all their steps: at the last iterate, or at the best one where that is further."""
    _check(attack, threat, s["x_adv"], s["x"])
    wrong, margin = worker.decide(s["x_adv"], s["y"])
    if attack.keep == "best":
        back = s["best_loss"] > worker.value(attack, s)
        if attack.stop_early:  # any iterate counts, so a broken last one is final
            back &= ~wrong
        s["x_adv"] = torch.where(back.view(-1, *[1] * (s["x"].dim() - 1)), s["best_x"], s["x_adv"])
        wrong[back], margin[back] = worker.decide(s["x_adv"][back], s["y"][back])
    found.put(s["row"], s["x_adv"], wrong, s["i"], margin)


def _check(attack: "GradientAttack", threat: ThreatModel, x_adv: Tensor, x: Tensor) -> None:
    """As `threat.check`, its error naming the attack."""
    try:
        threat.check(x_adv, x)
    except AttackError as error:
        raise AttackError(f"{attack.name}: {error}") from None


def _select(s: "State", rows: Tensor | slice) -> "State":
    return {k: v[rows] for k, v in s.items()}


def _concatenate(states: "list[State]") -> "State":
    return {k: torch.cat([s[k] for s in states]) for k in states[0]}
