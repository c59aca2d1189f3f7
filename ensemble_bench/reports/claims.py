"""The claims that verdicts are about, named before any test image is touched (Grefenstette et al. 2018, and why).

A claim is judged under each suite of `PRIMARY`, and under no other; a suite's claims are one family, over which the
p-values are corrected.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["more", "not more", "differs"]

PRIMARY: Mapping[str, str] = {"quick": "all test images", "strongest": "1,000 test images"}
"""The suites that decide, and the images named for them; a smaller split gives all that it has."""
EQUAL = 0.05
"""Costs that differ by no more than this share count as equal."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence about robust accuracies: the mean over the recipes `left` against the mean over the recipes `right`.

    "more": left is above right. "not more": left is at most `margin` (a fraction of the images) above right.
    "differs": the two are not equal; it has no reverse.
    """

    name: str
    sentence: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    direction: Direction = "more"
    margin: float = 0.0

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes that it compares, those of `left` first."""
        return self.left + self.right


def _pair(name: str, left: str, right: str, sentence: str) -> Claim:
    return Claim(name=name, sentence=sentence, left=(left,), right=(right,))


# Of the paper: its abstract and its conclusions, on two and, where there are such models, on four networks.
_PAPER = (
    _pair("capacity-2", "doubleadv", "singleadv", "a network of twice the cost is more robust"),
    _pair("capacity-4", "quadadv", "doubleadv", "a network of four times the cost is more robust than one of twice"),
    *(
        Claim(
            name=f"ensembling-alone-{k}",
            sentence=f"{word} networks without adversarial training are at most 1 point more robust than one",
            left=(f"ensemble{k}",),
            right=("baseline",),
            direction="not more",
            margin=0.01,
        )
        for k, word in ((2, "two"), (4, "four"))
    ),
    _pair("members-2", "ensemble2adv", "singleadv", "two networks trained as one model are more robust than one"),
    _pair("wider-2", "ensemble2adv", "doubleadv", "two networks trained as one model are more robust than a wider one"),
    _pair("wider-4", "ensemble4adv", "quadadv", "four networks trained as one model are more robust than a wider one"),
    _pair("apart-2", "ensemble2adv", "separate2adv", "two networks are more robust trained as one model than apart"),
    _pair("apart-4", "ensemble4adv", "separate4adv", "four networks are more robust trained as one model than apart"),
)

# What the paper calls training as one model is two things. The four recipes are all their combinations: who is attacked
# (the ensemble, or each member alone) and what is learned (the loss of the mean probability, or each member's own).
_CAUSES = (
    Claim(
        name="cause-attacked",
        sentence="attacking the ensemble in training gives more robustness than attacking each member",
        left=("ensemble2adv", "jointattack2adv"),
        right=("jointloss2adv", "separate2adv"),
    ),
    Claim(
        name="cause-learned",
        sentence="learning the loss of the mean gives more robustness than learning each member's own",
        left=("ensemble2adv", "jointloss2adv"),
        right=("jointattack2adv", "separate2adv"),
    ),
    Claim(
        name="cause-interaction",
        sentence="what attacking the ensemble gives depends on the loss that is learned",
        left=("ensemble2adv", "separate2adv"),
        right=("jointattack2adv", "jointloss2adv"),
        direction="differs",
    ),
)

CLAIMS: Mapping[str, Claim] = {claim.name: claim for claim in (*_PAPER, *_CAUSES)}
