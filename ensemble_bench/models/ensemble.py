"""Several networks that predict as one: the logits are the log of the mean member probability."""

import math
from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench.errors import AttackError, InvalidValueError, UnknownNameError
from ensemble_bench.models.answers import answer
from ensemble_bench.models.architecture import AGGREGATIONS, CheckpointInfo
from ensemble_bench.models.called import as_module

# What a class of another package needs to count as an ensemble.
INTERFACE = ("members", "gate", "aggregation", "member_logits", "log_weights", "aggregate", "aggregate_as")


class Ensemble(nn.Module):
    """Networks that map images to logits, averaged per image (Grefenstette et al. 2018, section 3).

    `aggregation` "prob" averages the members' probabilities, "logit" their logits (their Table 2); "draw" answers every
    image with one member drawn at random, anew at every call; "vote" counts the members' predicted classes (ties go to
    the class that comes first; no gradient). A `gate` maps images to one logit a member, whose softmax replaces the
    uniform weights. Raises InvalidValueError for no members or members that are no modules, UnknownNameError for an
    unknown aggregation.
    """

    info: CheckpointInfo | None = None
    """What `checkpoint.load` read beside the weights; None for a model that came from no checkpoint."""

    members: nn.ModuleList
    gate: nn.Module | None

    def __init__(
        self, members: Iterable[nn.Module], *, aggregation: str = "prob", gate: nn.Module | None = None
    ) -> None:
        super().__init__()
        one = isinstance(members, nn.Module) and not isinstance(members, nn.ModuleList)  # a Sequential is iterable, too
        if one or isinstance(members, Tensor) or not isinstance(members, Iterable):
            raise InvalidValueError(f"members is a {type(members).__name__}: expected a list of torch.nn.Modules")
        members = [as_module(member, "a member") for member in members]
        if not members:
            raise InvalidValueError("an ensemble needs at least one member, it got none")
        if gate is not None:
            gate = as_module(gate, "gate")
        if not isinstance(aggregation, str) or aggregation not in AGGREGATIONS:
            raise UnknownNameError("aggregation", aggregation, AGGREGATIONS)
        self.members = nn.ModuleList(members)
        self.gate = gate
        self.aggregation = aggregation

    def member_logits(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "member batch class"]:
        """Logits of every member, in float32 or better also under autocast."""
        answers = [_member_answer(i, member, x) for i, member in enumerate(self.members, 1)]
        if len({logits.shape[1] for logits in answers}) > 1:
            told = ", ".join(str(logits.shape[1]) for logits in answers)
            raise AttackError(f"the members tell {told} classes apart: expected as many in each")
        return _at_least_float32(torch.stack(answers))

    def log_gate(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "member batch 1"]:
        """Log of the gate's weight of every member for every image; the weights sum to 1 over the members."""
        if self.gate is None:
            raise InvalidValueError("the ensemble has no gate: its members count alike")
        logits = answer(self.gate, x)
        if logits.shape[1:] != (len(self.members),):
            raise InvalidValueError(
                f"the gate gives shape {tuple(logits.shape)}: expected (batch, {len(self.members)})"
            )
        return _at_least_float32(logits).log_softmax(1).T[..., None]

    def log_weights(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "member #batch 1"]:
        """Log of what every member counts: the gate's word on an image, or −log k."""
        if self.gate is not None:
            return self.log_gate(x)
        return x.new_full((len(self.members), 1, 1), -math.log(len(self.members)), dtype=torch.float32)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Log-probabilities of the ensemble: valid logits, whose cross-entropy is exactly −log p̄_y.

        Taken as a logsumexp of the members' log-softmax, so that confident members keep their gradients.
        """
        return self.aggregate(self.member_logits(x), x)

    def aggregate(
        self, member_logits: Float[Tensor, "member batch class"], x: Float[Tensor, "batch channel row column"]
    ) -> Float[Tensor, "batch class"]:
        """Second half of `forward`, for attacks that need the first half too: the answer, from the members' logits."""
        if self.aggregation == "logit":
            mean = member_logits.mean(0) if self.gate is None else (self.log_gate(x).exp() * member_logits).sum(0)
            return mean.log_softmax(1)
        if self.aggregation == "vote":
            # A share of 1e-6 for the classes nobody chose keeps the logs finite.
            votes = F.one_hot(member_logits.argmax(2), member_logits.shape[2]) * self.log_weights(x).exp()
            return (votes.sum(0) + 1e-6).log()
        log_probs = member_logits.log_softmax(2)
        if self.aggregation == "draw":
            weights = self.log_weights(x).exp()[..., 0].expand(-1, len(x)).T
            drawn = torch.multinomial(weights, 1)[:, 0]
            return log_probs[drawn, torch.arange(len(x), device=x.device)]
        if self.gate is None:
            return log_probs.logsumexp(0) - math.log(len(self.members))
        return (log_probs + self.log_gate(x)).logsumexp(0)

    def aggregate_as(self, aggregation: str) -> "Ensemble":
        """Ensemble of the very same member modules and gate with another aggregation; `info` goes along."""
        return self.with_members(self.members, aggregation)

    def with_members(self, members: Iterable[nn.Module], aggregation: str) -> "Ensemble":
        """Ensemble of other members with this gate; `info` and the train or eval mode go along, members keep theirs."""
        other = Ensemble(members, aggregation=aggregation, gate=self.gate)
        other.training = other.members.training = self.training
        other.info = self.info
        return other

    def extra_repr(self) -> str:
        """Aggregation, for `repr(model)`."""
        return f"aggregation={self.aggregation!r}"


class Single(Ensemble):
    """A network as an ensemble of one, whose answer is that network's own logits, unchanged."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__([network])

    def member_logits(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "member batch class"]:
        """Logits of the network, as of one member."""
        return self(x)[None]  # type: ignore[no-any-return]

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of the network."""
        return answer(self.members[0], x)

    def aggregate(
        self, member_logits: Float[Tensor, "member batch class"], x: Float[Tensor, "batch channel row column"]
    ) -> Float[Tensor, "batch class"]:
        """Logits of the network, from `member_logits`."""
        return member_logits[0]


def as_ensemble(model: nn.Module) -> Ensemble:
    """`model` itself where it is an ensemble, or has all of its `INTERFACE`; any other network as a `Single`."""
    if isinstance(model, Ensemble) or all(hasattr(model, name) for name in INTERFACE):
        return cast(Ensemble, model)
    return Single(model)


def _member_answer(number: int, member: nn.Module, x: Tensor) -> Tensor:
    """As `answer`, its error naming the member."""
    try:
        return answer(member, x)
    except AttackError as error:
        raise AttackError(f"member {number} ({type(member).__name__}): {error}") from None


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
