"""Models that answer at random: what attacks climb is their expected probability, what decides is many draws.

One draw decides nothing: an attack would be called successful as soon as luck helps, and as often as it asks.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench.models.calling import logits_of
from ensemble_bench.models.ensemble import Ensemble

EOT_DRAWS = 20
"""Draws behind every gradient, as in AutoAttack's version for randomised models (Croce & Hein 2020)."""
DRAWS = 100
"""Draws behind every verdict: the share of those that are right is known to 0.05 or better (one standard deviation)."""

LEAST = 1e-3
"""Share of right draws below which nothing is left to attack on an image."""


class Expected(nn.Module):
    """Log of the mean probability over `draws` calls of a model: expectation over draws (Athalye et al. 2018)."""

    def __init__(self, model: nn.Module, draws: int = EOT_DRAWS) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Log-probabilities."""
        answers = [logits_of(self.model, x).log_softmax(1) for _ in range(self.draws)]
        return torch.stack(answers).logsumexp(0) - torch.tensor(float(self.draws)).log()


class Votes(nn.Module):
    """Log of the share of `draws` calls of a model that gave each class, always from the same `seed`; no gradient.

    A share of 1e-6 for the classes of no draw keeps the logs finite, as in an ensemble that votes.
    """

    def __init__(self, model: nn.Module, *, seed: int = 0, draws: int = DRAWS) -> None:
        super().__init__()
        self.model, self.seed, self.draws = model, seed, draws

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Logs of shares; the global random state stays as it is."""
        devices = sorted({x.device.index} if x.is_cuda else ())
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            answers = [logits_of(self.model, x) for _ in range(self.draws)]
        votes = torch.stack([F.one_hot(z.argmax(1), z.shape[1]) for z in answers]).sum(0)
        return (votes.to(x.dtype) / self.draws + 1e-6).log()


def expected(model: nn.Module, *, exact: bool) -> nn.Module:
    """What attacks climb: a model's expected probability.

    That of an ensemble which draws one of its members, each of which answers the same every time (`exact`), is the mean
    probability of the members. Of members that answer at random each is averaged, so that attacks still find members.
    """
    if not isinstance(model, Ensemble) or model.aggregation not in ("draw", "prob") or model.gate is not None:
        return model.aggregate_as("prob") if exact and isinstance(model, Ensemble) else Expected(model)
    members: Iterable[nn.Module] = model.members if exact else map(Expected, model.members)
    return model.with_members(members, "prob")


def judge(model: nn.Module, *, exact: bool, seed: int = 0) -> nn.Module:
    """What decides: the log of the share of draws that give each class; of an `exact` ensemble the members' weights."""
    return model.aggregate_as("vote") if exact and isinstance(model, Ensemble) else Votes(model, seed=seed)


def calls_of(model: nn.Module) -> int:
    """How often a call of `model` calls what it is the mean of: once, unless it holds one of the means above."""
    return max((module.draws for module in model.modules() if isinstance(module, Expected | Votes)), default=1)


def share_right(log_shares: Float[Tensor, "batch class"], y: Tensor) -> Float[Tensor, "batch"]:
    """Expected accuracy on every image, in [0, 1], from what `judge` gives."""
    return log_shares.double().softmax(1).gather(1, y[:, None])[:, 0]
