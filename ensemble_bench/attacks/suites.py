"""Suites: which attacks score a model, in order."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks by name. In a `cascade` each runs only on the images that all before it left standing.

    Without it every attack meets every correctly classified image, so that their accuracies compare.
    """

    name: str
    attacks: tuple[str, ...]
    cascade: bool = False
    description: str


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="paper",
            attacks=("ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox"),
            description="the paper's Table 1a and 1b",
        ),
        Suite(
            name="paper500",
            attacks=("ifgsm500", "pgd500"),
            description="the paper's Table 1c: 500 steps",
        ),
        Suite(
            name="quick",
            attacks=("margin20", "apgd20", "apgd-dlr20"),
            cascade=True,
            description="a first worst case in little time: each attack on the images that are left",
        ),
    )
}
