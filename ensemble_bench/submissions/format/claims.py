"""The claims of a submission, and which results of a repetition agree with them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ensemble_bench import registry
from ensemble_bench.errors import BundleError, InvalidValueError, RecordError, shortened
from ensemble_bench.records import (
    CARRIED,
    CleanScore,
    Randomised,
    Record,
    RobustScore,
    Threat,
    read_samples,
    worst_case,
)
from ensemble_bench.records.conditions import precision_of
from ensemble_bench.records.decoding import decode, plain
from ensemble_bench.records.statistics import wilson_around
from ensemble_bench.records.threat import NORMS
from ensemble_bench.registry.file_names import is_reserved
from ensemble_bench.registry.terms import TEST
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.submissions.format.untrusted import quoted

SCHEMA = 2
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
HASH = "sha256:[0-9a-f]{64}"
WRONG, STANDS, FELL, TRANSFERRED = OUTCOMES = "wsfb"
"""What became of an image: wrong without an attack, robust, broken by an attack, or by the black-box set's image."""
PRECISIONS = ("float32", "bf16")
LINE = 1000
"""Images in one line of outcomes: texts of strangers are bounded."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One record of the submitter: what was evaluated, how, and the scores.

    `id` is the record's; `weights_hash` and `data_hash` ("sha256:…") say of which weights and images. `eps` is in units
    of the pixel range; scores are counts of images, fractions and 95 % Wilson intervals. `outcomes` hold a letter of
    OUTCOMES for every image, in the order of the split; `precision` is that of the search, None where it is not known,
    `blackbox` the hash of the black-box set, if there is one. Of a model that answers at random (`randomised`) outcomes
    and counts say what the vote of many draws is, and the accuracies are expected ones.
    """

    id: str
    weights_hash: str
    suite: str
    dataset: str
    data_name: str
    data_hash: str
    split: str
    n: int
    seed: int
    norm: str
    eps: float
    clean: CleanScore
    robust: RobustScore
    outcomes: tuple[str, ...]
    precision: str | None
    blackbox: str | None
    versions: Mapping[str, str]
    commit: str | None
    randomised: Randomised | None = None

    @classmethod
    def of(cls, record: Record) -> "Claim":
        """The claim that a record backs; raises RecordError without its samples."""
        letters = outcomes_of(record)
        own: dict[str, Any] = {
            "norm": record.threat.norm,
            "eps": record.threat.eps,
            "outcomes": tuple(letters[start : start + LINE] for start in range(0, len(letters), LINE)),
            "precision": precision_of(record) or None,
            "blackbox": blackbox_of(record),
        }
        return cls(**own, **{f.name: getattr(record, f.name) for f in fields(cls) if f.name not in own})

    @property
    def threat(self) -> Threat:
        """The threat of the record; in the file, norm and eps stand apart."""
        return Threat(norm=self.norm, eps=self.eps)

    def __str__(self) -> str:
        return f"{self.suite} on {self.n} images"


# What all claims of a bundle share: one model, one data set, one threat model.
SHARED = ("weights_hash", "dataset", "data_name", "data_hash", "norm", "eps")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The content of claims.json."""

    schema: int = SCHEMA
    name: str
    claims: tuple[Claim, ...]

    def as_dict(self) -> dict[str, Any]:
        """The claims as plain JSON values."""
        values: dict[str, Any] = plain(self)
        for claim in values["claims"]:
            if claim["randomised"] is None:
                del claim["randomised"]
        return values


def parse(values: Any, limits: Limits) -> Claims:
    """The claims of a parsed claims.json; raises BundleError, naming the field, for a value that cannot be true."""
    try:
        found: Claims = decode(Claims, values, "claims")
        if found.schema != SCHEMA:
            raise ValueError(f"schema is {found.schema}, this version reads {SCHEMA}")
        check_name(found.name)
        if not 1 <= len(found.claims) <= limits.max_claims:
            raise ValueError(f"{len(found.claims)} claims, expected 1 to {limits.max_claims}")
        for index, claim in enumerate(found.claims):
            _check(claim, f"claims[{index}]", limits)
        for field in SHARED:
            if len({getattr(claim, field) for claim in found.claims}) > 1:
                raise ValueError(f"{field} differs between claims: a bundle is of one model, data set and threat model")
        if len({(claim.suite, claim.n, claim.seed) for claim in found.claims}) < len(found.claims):
            raise ValueError("two claims are of the same suite, n and seed")
    except ValueError as error:
        raise BundleError(f"claims.json: {shortened(str(error))}") from None
    return found


def check_name(name: str) -> str:
    """Return a submission's name; raises InvalidValueError unless it can be that of files everywhere."""
    if not re.fullmatch(NAME, name):
        raise InvalidValueError(
            f"name is {quoted(name)}: expected 1 to 80 letters, digits, points, underscores and hyphens, the first a "
            "letter or digit"
        )
    if is_reserved(name):
        raise InvalidValueError(f"name is {quoted(name)}: some systems keep that name, or drop its last point")
    return name


def can_claim(record: Record, limits: Limits) -> bool:
    """Whether others can repeat it: of a whole model, on images that they have, too, by attacks run from their name."""
    if record.view is not None or record.split != TEST or record.attack(CARRIED) is not None:
        return False
    if record.dataset not in registry.names("data set"):
        return False
    try:
        _check_suite(record.suite, limits)
    except InvalidValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of `compared` images `differing` have another verdict in the claim; `apart` more are not compared."""

    differing: int
    compared: int
    apart: int


def agreement(claim: Claim, record: Record) -> Agreement:
    """Compare a claim, image by image, with our record of it on as many images, or the first of them.

    What an attack broke is broken, whichever attack that was. With another black-box set than the claim's, an image
    that both have right and either set broke is apart: what the other attacks would have done with it is not known.
    """
    ours = outcomes_of(record)
    pairs = list(zip("".join(claim.outcomes)[: len(ours)], ours, strict=True))
    same_set = claim.blackbox == blackbox_of(record)
    kept = [pair for pair in pairs if same_set or TRANSFERRED not in pair or WRONG in pair]
    broken = str.maketrans(TRANSFERRED, FELL)
    differing = sum(said.translate(broken) != found.translate(broken) for said, found in kept)
    return Agreement(differing=differing, compared=len(kept), apart=len(pairs) - len(kept))


def outcomes_of(record: Record) -> str:
    """A letter of OUTCOMES for every image of a record, in the order of its samples; RecordError without them."""
    if record.path is None:
        raise RecordError(f"{record.model}: the record was not read from a file, so its samples are nowhere")
    samples = read_samples(record.path.parent)
    standing = worst_case(samples)
    rows = zip(samples["clean"].tolist(), standing.tolist(), samples["broken_by"].tolist(), strict=True)
    return "".join(
        WRONG if not clean else STANDS if stands else TRANSFERRED if broken_by == registry.BLACKBOX else FELL
        for clean, stands, broken_by in rows
    )


def blackbox_of(record: Record) -> str | None:
    """Hash of the black-box set that a record used, None without one."""
    return None if record.blackbox is None else record.blackbox.hash


def _check(claim: Claim, where: str, limits: Limits) -> None:
    """Raise ValueError unless a claim can be true and can be checked."""
    for field, form in (("id", "[0-9a-f]{64}"), ("weights_hash", HASH), ("data_hash", HASH), ("data_name", NAME)):
        if not re.fullmatch(form, getattr(claim, field)):
            raise ValueError(f"{where}.{field} is {quoted(getattr(claim, field))}: expected {form}")
    if claim.commit is not None and not re.fullmatch(r"[0-9a-f]{7,64}(-dirty)?", claim.commit):
        raise ValueError(f"{where}.commit is {quoted(claim.commit)}: expected a commit's hash or null")
    if is_reserved(claim.data_name):
        raise ValueError(f"{where}.data_name is {quoted(claim.data_name)}: some systems keep that name")
    registry.check("data set", claim.dataset)
    _check_suite(claim.suite, limits)
    if claim.precision not in (None, *PRECISIONS):
        raise ValueError(f"{where}.precision is {quoted(claim.precision)}: expected {', '.join(PRECISIONS)} or null")
    if claim.blackbox is not None and not re.fullmatch(HASH, claim.blackbox):
        raise ValueError(f"{where}.blackbox is {quoted(claim.blackbox)}: expected {HASH} or null")
    if claim.blackbox is not None and registry.BLACKBOX not in registry.suite_of(claim.suite).attacks:
        # Images that a set broke need not agree.
        raise ValueError(f"{where}.blackbox is {quoted(claim.blackbox)}: suite {claim.suite} has none, expected null")
    if claim.split != TEST:
        raise ValueError(f"{where}.split is {quoted(claim.split)}: expected {TEST}")
    if not 1 <= claim.n <= limits.max_images:
        raise ValueError(f"{where}.n is {claim.n}: expected 1 to {limits.max_images} images")
    if not 0 <= claim.seed < 2**31:
        raise ValueError(f"{where}.seed is {claim.seed}: expected 0 to 2147483647")
    # Any image of [0, 1] is within linf 1 of any other; l2 radii of use are far smaller than 100.
    if claim.norm not in NORMS or not 1e-6 <= claim.eps <= (1 if claim.norm == "linf" else 100):
        raise ValueError(f"{where}: norm {quoted(claim.norm)} and eps {claim.eps:g} are no threat model")
    if not claim.clean.n == claim.robust.n == claim.n:
        raise ValueError(f"{where}: n is {claim.n}, its scores are of {claim.clean.n} and {claim.robust.n} images")
    counted = claim.randomised is None
    _check_score(f"{where}.clean", claim.clean.correct, claim.clean, claim.n, counted=counted)
    _check_score(f"{where}.robust", claim.robust.robust, claim.robust, claim.clean.correct, counted=counted)
    letters = "".join(claim.outcomes)
    if len(letters) != claim.n or not set(letters) <= set(OUTCOMES):
        raise ValueError(f"{where}.outcomes: expected a letter of {OUTCOMES} for each of {claim.n} images")
    counts = claim.n - letters.count(WRONG), letters.count(STANDS)
    if counts != (claim.clean.correct, claim.robust.robust):
        told = claim.clean.correct, claim.robust.robust
        raise ValueError(f"{where}.outcomes: {counts} images correct and robust, its scores say {told}")


def _check_suite(suite: str, limits: Limits) -> None:
    """Raise InvalidValueError unless a suite is known here and ends in bounded time.

    Attacks of toolkits take arguments without bounds, so no stranger chooses them.
    """
    if len(suite) > 200 or len(parts := registry.split_suite(suite)) > limits.max_attacks:
        raise InvalidValueError(f"suite {quoted(suite)} is longer than {limits.max_attacks} suites and attacks")
    if len(set(parts)) < len(parts):
        raise InvalidValueError(f"suite {quoted(suite)} names one of its parts twice")
    for part in parts:
        if part.partition(":")[0] in registry.TOOLKITS:
            raise InvalidValueError(
                f"suite {quoted(suite)} holds {quoted(part)}, and a toolkit's attacks are not claimed"
            )
        if part not in registry.names("suite"):
            attack, _ = registry.split_implementation(part)
            family, steps = registry.split_steps(attack)
            if attack == f"{family}-{steps}" and family[-1].isalpha():
                raise InvalidValueError(f"suite {quoted(suite)} holds {quoted(attack)}: it is called {family}{steps}")
            if steps is not None and steps > limits.max_steps:
                raise InvalidValueError(
                    f"suite {quoted(suite)} takes {steps} steps, at most {limits.max_steps} are run"
                )


def _check_score(where: str, count: int, score: CleanScore | RobustScore, most: int, *, counted: bool) -> None:
    """Raise ValueError unless at most `most` images are counted, and fraction and interval hold together.

    Where the accuracy is not expected but `counted` it is that of the count.
    """
    if not 0 <= count <= most:
        raise ValueError(f"{where}: {count} images, expected 0 to {most}")
    if not 0 <= score.accuracy <= 1:
        raise ValueError(f"{where}.accuracy is {score.accuracy:g}: expected a fraction in [0, 1]")
    accuracy = count / score.n if counted else score.accuracy
    low, high = wilson_around(accuracy, score.n)
    for name, expected in (("accuracy", accuracy), ("ci_low", low), ("ci_high", high)):
        value = getattr(score, name)
        if not math.isclose(value, expected, abs_tol=1e-6):
            raise ValueError(
                f"{where}.{name} is {value:g}: {accuracy * score.n:g} of {score.n} images make {expected:.6f}"
            )
