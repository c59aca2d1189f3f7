"""Diagnosis of an ensemble: its findings, one number each, all means over images."""

from dataclasses import dataclass

from ensemble_bench.records.threat import Threat

ENSEMBLE = "ensemble"
QUANTITIES = (
    "clean_accuracy",
    "robust_accuracy",
    "transfer",
    "cosine_clean",
    "cosine_adversarial",
    "share_clean",
    "share_adversarial",
    "members_fooled",
    "ensemble_falls",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number: the mean of a `quantity` over the `n` images that it is defined on, None where there are none.

    `a` and `b` name its models ("ensemble", "member1", "without member1"), or `a` a count of members ("0", "1", …).

    clean_accuracy, robust_accuracy: fraction of all images that `a` classifies correctly, and still does under attack.
    transfer: of the images that `a` and `b` classify correctly, the fraction on which x_adv made against `a` fools `b`.
    cosine_clean, cosine_adversarial: cosine of the input gradients of −log p_y of members `a` and `b`, in [-1, 1].
    share_clean, share_adversarial: the part of p̄_y that comes from member `a`, its gate weight included.
    members_fooled: of the images that the ensemble classifies correctly, the fraction whose x_adv, made against the
    ensemble, is misclassified by exactly `a` members. ensemble_falls: of these, the fraction that the ensemble
    misclassifies.
    """

    quantity: str
    a: str
    b: str = ""
    value: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings on one ensemble, and the weights, images, threat and attack that they come from."""

    model: str
    weights_hash: str
    data_name: str
    split: str
    n: int
    threat: Threat
    attack: str
    seed: int
    members: int
    findings: tuple[Finding, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names ("member1", …), in order."""
        return tuple(map(member, range(self.members)))

    def find(self, quantity: str, a: str, b: str = "") -> Finding:
        """The finding on `a` (and `b`); raises KeyError where there is none."""
        for finding in self.findings:
            if (finding.quantity, finding.a, finding.b) == (quantity, a, b):
                return finding
        raise KeyError((quantity, a, b))

    def value(self, quantity: str, a: str, b: str = "") -> float | None:
        """The number of that finding."""
        return self.find(quantity, a, b).value


def member(index: int) -> str:
    """Name of the member at `index`, counted from 0: the first is "member1"."""
    return f"member{index + 1}"


def without(name: str) -> str:
    """Name of the ensemble that is left when the member `name` is taken out."""
    return f"without {name}"
