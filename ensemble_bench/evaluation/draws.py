"""Scores of models that answer at random: shares of draws that are right, instead of single verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble_bench.attacks import engine
from ensemble_bench.attacks.engine import Budget
from ensemble_bench.evaluation.journal import Entry
from ensemble_bench.models.calling import frozen
from ensemble_bench.models.randomised import DRAWS, EOT_DRAWS, LEAST, calls_of, share_right
from ensemble_bench.records import Randomised

CHOSEN, REPORTED = SHARES = "share_chosen", "share_reported"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A model that answers at random, and a judge whose draws no attack is chosen by.

    With `exact` both judges know the shares, and no draws are needed.
    """

    model: nn.Module
    other_judge: nn.Module
    exact: bool

    @property
    def how(self) -> Randomised:
        """What a record says of the draws."""
        return Randomised(draws=None if self.exact else DRAWS, gradient_draws=None if self.exact else EOT_DRAWS)

    @property
    def passes(self) -> int:
        """Passes that the shares at an image take."""
        return 2 * calls_of(self.other_judge)

    def shares(self, log_shares: Tensor, x: Tensor, y: Tensor, batch_size: int) -> Mapping[str, Float[Tensor, "batch"]]:
        """Share of the draws that are right at `x`: of those behind `log_shares`, and of others."""
        other = engine.Worker(self.other_judge, batch_size).logits(x, y)
        return {CHOSEN: share_right(log_shares, y), REPORTED: share_right(other, y)}

    def shares_at(
        self, judge: nn.Module, outcome: engine.Outcome, y: Int64[Tensor, "batch"], budget: Budget
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """As `shares`, at the adversarial images of an attack."""
        if not len(y):
            return {name: outcome.margin.double() for name in (CHOSEN, REPORTED)}
        with frozen(judge), frozen(self.model):
            log_shares = engine.Worker(judge, budget.batch_size).logits(outcome.x_adv, y)
            return self.shares(log_shares, outcome.x_adv, y, budget.batch_size)

    def clean(self, log_shares: Tensor, x: Tensor, y: Tensor, batch_size: int) -> Entry:
        """As `shares`, of clean images."""
        return {name: share.tolist() for name, share in self.shares(log_shares, x, y, batch_size).items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """Of every image, the share of draws that are right: clean, and at the worst adversarial image so far.

    The worst is the one where `chosen` is least; `reported` are other draws there, which luck has not picked.
    """

    clean: NDArray[Any]
    chosen: NDArray[Any]
    reported: NDArray[Any]

    @property
    def open(self) -> NDArray[np.bool_]:
        """Images on which some draws are right: where most are wrong, others may still fall."""
        return np.asarray(self.chosen > LEAST, dtype=np.bool_)

    @classmethod
    def of(cls, clean: Sequence[Entry]) -> "Shares":
        """The shares on clean images, from the entries of their blocks."""
        chosen, reported = (_column(clean, name) for name in (CHOSEN, REPORTED))
        return cls(clean=reported.copy(), chosen=chosen, reported=reported)

    def lower(self, entries: Sequence[Entry]) -> None:
        """Take over what an attack found, block by block; NaN for images that it did not meet."""
        chosen, reported = (_column(entries, name) for name in (CHOSEN, REPORTED))
        worse = np.less(chosen, self.chosen, where=~np.isnan(chosen), out=np.zeros(len(chosen), dtype=bool))
        self.chosen[worse], self.reported[worse] = chosen[worse], reported[worse]

    def take(self, other: "Shares") -> None:
        """Take over what another attack on the same images left."""
        self.lower([{CHOSEN: other.chosen, REPORTED: other.reported}])


def _column(entries: Sequence[Entry], name: str) -> NDArray[Any]:
    return np.concatenate([np.asarray(entry[name], dtype=float) for entry in entries])
