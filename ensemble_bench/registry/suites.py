"""Suites: which attacks score a model, in order."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.registry.cards import IMPLEMENTATIONS


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks by name. In a `cascade` each runs only on the images that all before it left standing.

    Without it every attack meets every correctly classified image, so that their accuracies compare. An attack with a
    number k in `one_in` meets one in k of the images that a cascade left standing so far, of every block of images (see
    evaluation/scoring.py) those nearest to being broken; where it breaks some, it meets the next twice as many. Those
    in `ensembles` are left out for a single network; `weighted` names further ones for gated and randomised ensembles.
    `randomised`, where it is given, are the attacks on a model that answers at random, instead of all others.
    With `views`, every member of a checkpoint and its logit average are scored on their own too, with these attacks. A
    `probe` adds the tests for masked gradients that need attacks of their own, and `recapture` runs each attack of a
    cascade alone too, on a sample (see evaluation/trust). A model without a rank is shown by its record of the suite of
    the highest `strength`; what ranks is the board's suite, which holds the probe. Raises InvalidValueError for a
    number below 1 in `one_in`, or one for an attack that is not in the cascade.
    """

    name: str
    attacks: tuple[str, ...]
    cascade: bool = False
    one_in: Mapping[str, int] = field(default_factory=dict, hash=False)
    ensembles: tuple[str, ...] = ()
    weighted: tuple[str, ...] = ()
    randomised: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    probe: bool = False
    recapture: bool = False
    strength: int = 0
    description: str

    def __post_init__(self) -> None:
        for name, k in self.one_in.items():
            if k < 1 or name not in self.attacks or not self.cascade:
                where = f"in a cascade of {', '.join(self.attacks)}"
                raise InvalidValueError(f"suite {self.name}: one_in is {k} for {name!r}: expected at least 1, {where}")


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="paper",
            strength=1,
            attacks=("ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox"),
            description="the paper's Table 1a and 1b",
        ),
        Suite(
            name="paper500",
            strength=2,
            attacks=("ifgsm500", "pgd500"),
            description="the paper's Table 1c: 500 steps",
        ),
        Suite(
            name="appendix",
            strength=3,
            attacks=(
                "margin-doubled1280",
                "random-member-doubled1280",
                "mean-member-doubled1280",
                "max-member-doubled1280",
                "clipped-member-doubled1280",
            ),
            views=("margin-doubled1280",),
            description="the paper's Table 2 and Figure 3: ensemble, members and logit average, steps doubled",
        ),
        Suite(
            name="quick",
            strength=4,
            attacks=("sweep10", "pma100", "sweep20", "sweep-top50", "sweep-top100"),
            one_in={"pma100": 8, "sweep20": 12, "sweep-top50": 12, "sweep-top100": 32},
            cascade=True,
            description="made to reach autoattack's figure at a twentieth of its cost",
        ),
        Suite(
            name="autoattack",
            strength=5,
            attacks=("apgd100", "apgd-t100", "fab-t100", "square5000"),
            randomised=("apgd100", "apgd-dlr100"),
            cascade=True,
            probe=True,
            description="the standard version as published (Croce & Hein 2020)",
        ),
        Suite(
            name="strongest",
            strength=6,
            attacks=(
                "blackbox",
                "sweep10",
                "mora10",
                "pma100",
                # With these quick's attacks are all here, so that what it breaks is hardly ever missed.
                "sweep20",
                "sweep-top50",
                "sweep-top100",
                "bypass100",
                "apgd100",
                "reacg100",
                "mean-member100",
                "member-transfer100",
                "mora100",
                "apgd-t100",
                "margin-t100",
                "fab-t100",
                "square5000",
                "margin-plateau1600",
            ),
            one_in={
                "sweep20": 12,
                "sweep-top50": 12,
                "sweep-top100": 32,
                "apgd100": 2,
                "reacg100": 4,
                "mean-member100": 4,
                "member-transfer100": 4,
                "mora100": 12,
                "apgd-t100": 2,
                "margin-t100": 8,
                "fab-t100": 6,
                "square5000": 6,
                "margin-plateau1600": 8,
            },
            ensembles=("mora10", "bypass100", "mean-member100", "member-transfer100", "mora100"),
            weighted=("arc100", "margin50"),
            cascade=True,
            probe=True,
            recapture=True,
            description="a planned cascade, ensembles' own attacks included: what an image near the boundary may need",
        ),
        Suite(
            name="exhaustive",
            strength=7,
            attacks=(
                "blackbox",
                "pgd20",
                "apgd100",
                "bypass100",
                "mean-member100",
                "member-transfer100",
                "mora100",
                "apgd-t100",
                "margin-t100",
                "fab-t100",
                "square5000",
                "margin-plateau1600",
            ),
            weighted=("arc100", "margin50"),
            cascade=True,
            probe=True,
            description="all that is known, ensembles' own attacks included, on all that stands: referee of strongest",
        ),
        Suite(
            name="probe",
            attacks=(),
            probe=True,
            description="no attack that counts, only the short tests for masked gradients: quick+probe has both",
        ),
        Suite(
            name="recapture",
            attacks=(),
            recapture=True,
            description="each attack of a cascade alone too, on a sample: quick+recapture has both",
        ),
        Suite(
            name="crosscheck",
            attacks=tuple(
                f"{attack}@{implementation}"
                for attack in ("bim20", "ifgsm20", "apgd20", "margin20")
                for implementation in IMPLEMENTATIONS
            ),
            description="standard attacks by our engine, by torchattacks and by ART: warns where one finds less",
        ),
    )
}


def strength_of(suite: str) -> int:
    """How strong a suite is among ours; a sum of suites and attacks is as strong as its strongest part."""
    return max((SUITES[part].strength for part in suite.split("+") if part in SUITES), default=0)
