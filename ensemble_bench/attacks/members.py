"""Attacks on the members' own logits, which averaged probabilities hide; the ensemble decides on the images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.attacks.apgd import APGD
from ensemble_bench.attacks.engine import Attack, Chain, GradientAttack, Loss, Noise, State, doubled
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.models import calling
from ensemble_bench.models.ensemble import Ensemble, as_ensemble
from ensemble_bench.threat import ThreatModel


def members_of(model: nn.Module) -> Sequence[nn.Module]:
    """The networks that `model` is made of: itself, where it is no ensemble."""
    return list(as_ensemble(model).members)


def weights_of(
    model: nn.Module, member_logits: Float[Tensor, "member batch class"], x: Tensor
) -> Float[Tensor, "member batch"]:
    """Weight of every member for every image of `x`: the gate's, or 1/k; they sum to 1 over the members."""
    weights = as_ensemble(model).log_weights(calling.channels_last(x)).exp()[..., 0]
    return weights.to(member_logits.dtype).expand(member_logits.shape[:2])


class OnMembers(GradientAttack, ABC):
    """Ascends a value of the members' logits; images are broken when the ensemble misclassifies them, at any iterate.

    It stands behind the step rule among the bases, whose defaults hold: `class Bypass(APGD, OnMembers)`.
    """

    @abstractmethod
    def value(
        self, logits: Float[Tensor, "member batch class"], weights: Float[Tensor, "member batch"], s: State
    ) -> Float[Tensor, "batch"]:
        """The value to ascend, given the members' logits and their weights."""

    def evaluate(self, model: Ensemble, x_adv: Tensor, s: State) -> tuple[Tensor, Tensor]:
        """Logits of the ensemble and the value, of one call of the members."""
        logits = calling.member_logits_of(model, x_adv)
        value = self.value(logits, weights_of(model, logits, x_adv), s)
        return calling.aggregated(model, logits, x_adv), value


@dataclass(frozen=True, kw_only=True)
class Bypass(APGD, OnMembers):
    """Auto-PGD on the mean of the members' logits, weighted by a gate, also of ensembles that average probabilities."""

    def value(self, logits: Tensor, weights: Tensor, s: State) -> Tensor:
        """Loss of the average."""
        return self.loss_of((weights[..., None] * logits).sum(dim=0), s)


@dataclass(frozen=True, kw_only=True)
class MemberPGD(PGD, OnMembers):
    """PGD on the members' losses, combined as `pool` says (Grefenstette et al. 2018, appendix A.2)."""

    loss: Loss = losses.margin
    keep: str = "best"

    def value(self, logits: Tensor, weights: Tensor, s: State) -> Tensor:
        """The pooled loss."""
        return self.pool(torch.stack([self.loss_of(z, s) for z in logits]), weights, s)

    @abstractmethod
    def pool(
        self, values: Float[Tensor, "member batch"], weights: Float[Tensor, "member batch"], s: State
    ) -> Float[Tensor, "batch"]:
        """One value an image, of its members' losses."""


class MeanMember(MemberPGD):
    """The members' values, each with the weight of its member."""

    def pool(self, values: Tensor, weights: Tensor, s: State) -> Tensor:
        """Σ weight·value."""
        return (weights * values).sum(dim=0)


class MaxMember(MemberPGD):
    """The largest of the members' values: that of the member which is fooled most, or is nearest to being fooled."""

    def pool(self, values: Tensor, weights: Tensor, s: State) -> Tensor:
        """Largest value."""
        return values.amax(dim=0)


@dataclass(frozen=True, kw_only=True)
class ClippedMember(MemberPGD):
    """As MeanMember, each value at most `bound` logits: a member that is fooled by so much adds no gradient."""

    bound: float = 1.0

    def pool(self, values: Tensor, weights: Tensor, s: State) -> Tensor:
        """Σ weight·min(value, bound)."""
        return (weights * values.clamp(max=self.bound)).sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class RandomMember(MemberPGD):
    """At each step the value of one member, drawn with its weight as probability.

    Values of different members do not compare, so that the last iterate is kept and not the best.
    """

    keep: str = "last"

    def init(self, s: State, threat: ThreatModel, noise: Noise) -> None:
        """A uniform number in [0, 1) for every step, and one for the value after the last step."""
        super().init(s, threat, noise)
        s["drawn"] = (noise((self.steps + 1,), "member") + 1) / 2

    def pool(self, values: Tensor, weights: Tensor, s: State) -> Tensor:
        """Value of the member whose share of [0, 1) holds this step's number."""
        number = s["drawn"].gather(1, s["i"][:, None])[:, 0]
        member = (number >= weights.detach().cumsum(dim=0)).sum(dim=0).clamp(max=len(weights) - 1)
        return values.gather(0, member[None])[0]


@dataclass(frozen=True, kw_only=True)
class OneMember(APGD, OnMembers):
    """Auto-PGD on the loss of one member, counted from 0, alone."""

    member: int = 0

    def value(self, logits: Tensor, weights: Tensor, s: State) -> Tensor:
        """Loss of the member."""
        return self.loss_of(logits[self.member], s)


@dataclass(frozen=True, kw_only=True)
class MemberTransfer(Chain):
    """Its one stage, once for every member of the model: images that fool one member often fool them all."""

    def parts(self, model: nn.Module) -> Sequence[Attack]:
        """A stage for every member: "member-transfer100/member1" and so on."""
        [stage] = self.stages
        return [
            replace(stage, name=f"{self.name}/member{m + 1}", member=m)  # type: ignore[call-arg]
            for m in range(len(members_of(model)))
        ]


def bypass(steps: int, **settings: Any) -> Bypass:
    """Auto-PGD with `steps` steps on the margin of the logit average, past the softmax that hides it.

    Of the three losses the margin broke the most of digits' validation images, before the cross-entropy and DLR.
    """
    return replace(Bypass(name=f"bypass{steps}", steps=steps, loss=losses.margin), **settings)


def mean_member(steps: int, **settings: Any) -> MemberPGD:
    """PGD with `steps` steps on the mean of the members' margins."""
    return _pooled(MeanMember, "mean-member", steps, settings)


def max_member(steps: int, **settings: Any) -> MemberPGD:
    """PGD with `steps` steps on the largest of the members' margins."""
    return _pooled(MaxMember, "max-member", steps, settings)


def clipped_member(steps: int, **settings: Any) -> MemberPGD:
    """PGD with `steps` steps on the mean of the members' margins, none of which counts for more than `bound`."""
    return _pooled(ClippedMember, "clipped-member", steps, settings)


def random_member(steps: int, **settings: Any) -> MemberPGD:
    """PGD with `steps` steps, each on the margin of a member drawn at random (Athalye et al. 2018)."""
    return _pooled(RandomMember, "random-member", steps, settings)


def _pooled(kind: type[MemberPGD], family: str, steps: int, settings: dict[str, Any]) -> MemberPGD:
    """PGD with steps of 2.5·eps/steps, as margin_pgd."""
    return replace(kind(name=f"{family}{steps}", steps=steps, step_size=2.5 / steps), **settings)


def _doubled(
    family: str, make: Callable[..., MemberPGD], steps: int, *, first: int = 10, patience: int = 2, **settings: Any
) -> Chain:
    """`make` with 10, 20, 40, … steps, up to `steps`, until accuracy stops falling."""
    stage = partial(make, **settings)
    return doubled(f"{family}-doubled{steps}", stage, first=first, last=steps, patience=patience)


DOUBLED: Mapping[str, Callable[..., Chain]] = {
    "mean-member-doubled": partial(_doubled, "mean-member", mean_member),
    "max-member-doubled": partial(_doubled, "max-member", max_member),
    "clipped-member-doubled": partial(_doubled, "clipped-member", clipped_member),
    "random-member-doubled": partial(_doubled, "random-member", random_member),
}


def member_transfer(steps: int, **settings: Any) -> MemberTransfer:
    """Auto-PGD with `steps` steps on the cross-entropy of one member after the other."""
    stage = replace(OneMember(name=f"member-transfer{steps}", steps=steps), **settings)
    return MemberTransfer(name=stage.name, stages=(replace(stage, member=0),))  # of each in turn
