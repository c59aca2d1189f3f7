"""ARC: against ensembles that answer with one member at random (Dbouk & Shanbhag 2022, arXiv 2206.06737)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ensemble_bench import losses, randomness
from ensemble_bench.attacks import engine
from ensemble_bench.attacks.engine import Attack, Counted, State, Worker, check, per_image, select, where
from ensemble_bench.attacks.members import members_of, weights_of
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import calling
from ensemble_bench.models.calling import gradient
from ensemble_bench.models.randomised import LEAST
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class ARC(Attack):
    """Walks to the members' nearest linearised boundaries, one member at a time, while expected accuracy never rises.

    In each of the `steps` rounds the image moves by `step_size` (in units of eps). Every member in turn proposes to
    bend the round's move towards its own nearest boundary, as little as crosses it by `overshoot` (in units of eps);
    the bend is taken where the members that are right weigh no more after it. Each member leads a round in turn,
    because a gate may prefer another one on every image. The `classes` strongest wrong classes are looked at. An image
    is done once the model misclassifies it, without `stop_early` once no member is right. Raises InvalidValueError for
    counts below 1 or sizes that are not positive.
    """

    steps: int
    classes: int = 4
    step_size: float = 1.0
    overshoot: float = 0.05
    random_start: bool = True
    stop_early: bool = True

    def settings(self) -> dict[str, Any]:
        """Every field but `stop_early`, which records of models that answer at random alone have otherwise."""
        return {name: value for name, value in super().settings().items() if name != "stop_early"}

    def __post_init__(self) -> None:
        for what in ("steps", "classes"):
            if (count := getattr(self, what)) < 1:
                raise InvalidValueError(f"{self.name}: {what} is {count}: expected at least 1")
        for what in ("step_size", "overshoot"):
            if not (size := getattr(self, what)) > 0:
                raise InvalidValueError(f"{self.name}: {what} is {size}: expected more than 0")

    def search(self, task: engine.Task) -> engine.Outcome:
        """Attack the images that are classified correctly, batch by batch; bf16 is for gradients alone."""
        x, y, threat = task.x, task.y, task.threat
        x_adv, steps = x.clone(), torch.zeros_like(y)
        with calling.frozen(task.model):
            worker = Worker(task.model, task.budget.batch_size)
            members = [Counted(member) for member in members_of(task.proposer)]
            search = _Search(
                attack=self, worker=worker, members=members, threat=threat, precision=task.budget.precision
            )
            broken, margin = calling.verdict(worker.clean_logits(task), y)
            right = (~broken | (not self.stop_early)).nonzero()[:, 0]
            for start in range(0, len(right), task.budget.batch_size):
                rows = right[start : start + task.budget.batch_size]
                s = {"row": rows, "x": x[rows], "y": y[rows], "x_adv": x[rows]}
                if self.random_start:
                    noise = randomness.uniform(
                        tuple(x.shape[1:]), task.ids[rows.cpu()], seed=task.budget.seed, stream=self.name
                    )
                    s["x_adv"] = threat.random_start(s["x"], noise.to(x))
                search.run(s, x_adv, steps)
                broken[rows], margin[rows] = search.decide(x_adv[rows], x[rows], y[rows])
                if task.on_done is not None:
                    task.on_done(start + len(rows), int(broken[right[: start + len(rows)]].sum()))
        return engine.Outcome(x_adv=x_adv, broken=broken, steps=steps, margin=margin, passes=search.passes)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """One attack on one model; worker and members count the images pushed through them."""

    attack: ARC
    worker: Worker
    members: Sequence[Counted]
    threat: ThreatModel
    precision: str

    @property
    def passes(self) -> int:
        """Images through the whole model; a member is a part of it."""
        return self.worker.passes + math.ceil(sum(m.passes for m in self.members) / len(self.members))

    def decide(self, x_adv: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `Worker.decide`, of images that keep to the threat model."""
        check(self.attack.name, self.threat, x_adv, x)
        return self.worker.decide(x_adv, y)

    def run(self, s: State, x_adv: Tensor, steps: Tensor) -> None:
        """Attack the images in `s`; their last iterates go into `x_adv`, their numbers of rounds into `steps`."""

        def leave(gone: Tensor, ended: Tensor, rounds: int) -> State:
            x_adv[s["row"][gone]], steps[s["row"][gone]] = ended[gone], rounds
            return select(s, ~gone)

        s["accuracy"], broken = self.judge(s["x_adv"], s["y"])
        s = leave(broken, s["x_adv"], 0)
        for step in range(self.attack.steps):
            s["move"] = torch.zeros_like(s["x"])
            for turn in range(len(self.members)):
                if not len(s["row"]):
                    return
                move = self.bend(self.members[(step + turn) % len(self.members)], s)
                candidate = self.threat.project(s["x_adv"] + move, s["x"])
                accuracy, broken = self.judge(candidate, s["y"])
                taken = accuracy <= s["accuracy"] + 1e-6  # the sums of a gate's weights are rounded
                s["move"] = where(taken, move, s["move"])
                s["accuracy"] = torch.minimum(accuracy, s["accuracy"])
                s = leave(broken, candidate, step + 1)
            s["x_adv"] = self.threat.project(s["x_adv"] + s["move"], s["x"])
        leave(torch.ones_like(s["row"], dtype=torch.bool), s["x_adv"], self.attack.steps)

    def judge(self, x_adv: Tensor, y: Tensor) -> tuple[Float[Tensor, "batch"], Bool[Tensor, "batch"]]:
        """Weight of the members that are right, and whether the image is done."""
        model = self.worker.model

        def forward(rows: slice) -> tuple[Tensor, ...]:
            with torch.no_grad():
                logits = calling.member_logits_of(model, x_adv[rows])
                right = (logits.argmax(dim=2) == y[rows]) * weights_of(model, logits, x_adv[rows])
                whole = calling.aggregated(self.worker.judge, logits, x_adv[rows])
            accuracy = right.sum(dim=0)
            done = whole.argmax(dim=1) != y[rows] if self.attack.stop_early else accuracy <= LEAST
            return accuracy, done

        self.worker.passes += self.worker.judged * len(x_adv)
        accuracy, broken = self.worker.map(forward, len(x_adv))
        return accuracy, broken

    def bend(self, member: nn.Module, s: State) -> Tensor:
        """The round's move, bent towards the member's nearest boundary and again of length η.

        With a step of length β along the direction added, and scaled back to length η, the move δ still crosses the
        boundary if η(⟨n, δ⟩ + β)/(η + β) ≥ ζ, where ζ = ⟨n, δ⟩ + distance is how far it lies from the round's start
        along the normal n. The least such β is η·distance/(η − ζ); a boundary that is out of reach gets β = η.
        """

        def nearest(rows: slice) -> tuple[Tensor, ...]:
            device = s["x"].device.type
            with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
                at = self.threat.project(s["x_adv"][rows] + s["move"][rows], s["x"][rows])
                return nearest_boundary(member, at, s["y"][rows], self.threat, classes=self.attack.classes)

        direction, normal, distance = self.worker.map(nearest, len(s["x"]))
        eta = self.attack.step_size * self.threat.eps
        zeta = (normal * s["move"]).flatten(1).sum(dim=1) + distance
        beta = torch.where(zeta < eta, eta * distance.clamp_min(0) / (eta - zeta), eta).clamp(max=1e3 * eta)
        beta = beta + self.attack.overshoot * self.threat.eps
        move = s["move"] + per_image(beta, direction) * direction
        length = self.threat.distance(move, torch.zeros_like(move)).clamp_min(1e-12)
        return move * per_image(eta / length, move)


def nearest_boundary(
    model: nn.Module, x: Float[Tensor, "batch *image"], y: Int64[Tensor, "batch"], threat: ThreatModel, *, classes: int
) -> tuple[Float[Tensor, "batch *image"], Float[Tensor, "batch *image"], Float[Tensor, "batch"]]:
    """Unit direction to the nearest linearised boundary of y, its normal, and how far it is (below 0: behind).

    Of the boundaries to the `classes` strongest wrong classes, as DeepFool (Moosavi-Dezfooli et al. 2016). The
    direction has length 1 in the norm of `threat`, and the normal a product of 1 with it. Raises AttackError for
    gradients that are not finite.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = calling.logits_of(model, x)
        wrong = losses.strongest_wrong(logits.detach(), y)
        gaps = logits.gather(1, wrong[:, :classes][:, : logits.shape[1] - 1]) - logits.gather(1, y[:, None])
    direction, normal = torch.zeros_like(x), torch.zeros_like(x)
    distance = x.new_full((len(x),), torch.inf)
    for gap in gaps.unbind(dim=1):
        steepest, its_normal, how_far = linearised(gap, x, threat)
        nearer = how_far < distance
        distance = torch.where(nearer, how_far, distance)
        direction, normal = where(nearer, steepest, direction), where(nearer, its_normal, normal)
    return direction.detach(), normal.detach(), distance.detach()


def linearised(
    gap: Float[Tensor, "batch"], x: Float[Tensor, "batch *image"], threat: ThreatModel
) -> tuple[Float[Tensor, "batch *image"], Float[Tensor, "batch *image"], Float[Tensor, "batch"]]:
    """Direction to where `gap`, a function of `x`, would be 0 were it linear, the normal there, and how far it is.

    As `nearest_boundary`, for one boundary. The distance is −gap/‖∇gap‖ in the dual norm: ‖·‖₁ under linf.
    """
    grad = gradient(gap.sum(), x, retain_graph=True)
    steepest = threat.steepest(grad)
    slope = (grad * steepest).flatten(1).sum(dim=1).clamp_min(torch.finfo(grad.dtype).tiny)
    return steepest, grad / per_image(slope, grad), -gap.detach() / slope


def arc(steps: int, **settings: Any) -> ARC:
    """ARC with `steps` rounds."""
    return replace(ARC(name=f"arc{steps}", steps=steps), **settings)
