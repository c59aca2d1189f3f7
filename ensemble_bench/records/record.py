"""Record: the results of one evaluation of one model, and the checks that its numbers agree with each other."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble_bench.errors import RecordError
from ensemble_bench.records.decoding import decode, plain
from ensemble_bench.records.recapture import Recapture
from ensemble_bench.records.threat import NORMS, Threat

SCHEMA = 1
CARRIED = "smaller-eps"
"""Name, among a record's attacks, of the images that fell at a smaller eps and were not attacked again."""
IMAGE_FORMATS = ("float32", "png")
TRAINING: Mapping[str, tuple[type, ...]] = {
    "changes": (dict,),
    "steps": (int,),
    "objective": (str,),
    "match": (str, type(None)),
    "settings": (dict,),
    "eps": (float, int),
    "crossed_commits": (bool,),
    "crossed_versions": (bool,),
}
"""Keys of a record's `training` and the types of their values in JSON."""
CROSSED = ("crossed_commits", "crossed_versions")
"""Those that say how a run was continued, and not what it is."""


@dataclass(frozen=True, kw_only=True)
class CleanScore:
    """Images classified correctly without an attack; accuracies are fractions, with a 95 % Wilson interval.

    Of a model that answers at random, here and in all scores, the count is of images that the vote of many draws gets
    right, and the accuracy is the expected one, the mean share of draws that are right.
    """

    correct: int
    n: int
    accuracy: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, kw_only=True)
class RobustScore:
    """Images that are classified correctly and that no attack of the suite broke (the worst case per image)."""

    robust: int
    n: int
    accuracy: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One stage of an attack that has several: it ran on `attacked` images and broke `broken` of them."""

    name: str
    attacked: int
    broken: int
    seconds: float
    passes: int


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """One attack of a suite: `robust` of the `n` images that it attacked withstood it.

    `credit` counts the correctly classified images that this attack broke and all attacks before missed; `curve` is the
    accuracy after 0, 1, … steps. `passes` counts images pushed through the model, forward or backward. `stages` is None
    for an attack of a single one. One with "one_in" in its settings met the nearest of the images that stood, as many
    as its first stage attacked in all; the others count as robust. The accuracy and its interval are None where the
    attack had no image (n = 0).
    """

    name: str
    settings: Mapping[str, Any]
    n: int
    robust: int
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    credit: int
    seconds: float
    curve: tuple[float, ...] | None = None
    passes: int | None = None
    stages: tuple[StageResult, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", plain(self.settings))


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A network that the black-box set was made against, and its clean accuracy in [0, 1]."""

    backbone: str
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Blackbox:
    """The black-box set of an evaluation: `n` of its images were used.

    `keep_rate` is the share of images that fooled every surrogate and so were kept when the set was made, in [0, 1].
    """

    hash: str
    keep_rate: float
    surrogates: tuple[Surrogate, ...]
    n: int


@dataclass(frozen=True, kw_only=True)
class SavedImages:
    """Adversarial images that were saved in a `format`, and how many of the `broken` ones the model still gets wrong.

    `format` is "float32" or "png"; `hash` is that of the file, or of all PNG files one after the other. Of the images
    that an attack broke, `confirmed` were misclassified when the model was asked once more, and `rounded` are as images
    of 8 bits a pixel, rounded within the threat model's ball.
    """

    format: str
    hash: str
    broken: int
    confirmed: int
    rounded: int


@dataclass(frozen=True, kw_only=True)
class NamedWarning:
    """Something that makes a number doubtful, such as a sign of masked gradients."""

    name: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """How attacks searched, whose finds the model itself decided on: the precision, "float32" or "bf16".

    `folded` says whether a twin with batch norm folded away proposed, `compiled` whether that was compiled, and `note`
    why not, where it was tried.
    """

    precision: str
    folded: bool
    compiled: bool
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Randomised:
    """How the expected accuracies of a model that answers at random were found.

    The shares of draws that are right are those of `draws` draws that no attack was chosen by (None: all members, by
    their weights), each image at that of its adversarial images where other draws were wrong most often. Intervals are
    Wilson's for the images, as if every share were 0 or 1: wider than those of any shares. A gradient is a mean over
    `gradient_draws`.
    """

    draws: int | None
    gradient_draws: int | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One evaluation of one model: the model, the images, the threat, the attacks, and the results.

    Fields that only a trained checkpoint has (recipe, preset, checkpoint, step, architecture) are None for others.
    `view` says which part of the model was scored: "member1", "member2", …, "logit" (its members' logits averaged), or
    None for the model itself. In a `cascade` each attack ran only on images that no earlier one had broken. `training`
    is how the model was trained: what the user changed against recipe and preset (`changes`), all of the settings, the
    number of steps, the objective, what a wider network matches, the eps (in units of the pixel range), and whether it
    was continued at another commit than it began at (`crossed_commits`), or under other versions or on another kind of
    processor (`crossed_versions`); None for a model from elsewhere, and in records from before, as are `search` and
    `samples_hash`, that of samples.parquet. `images` tells of the adversarial images, where they were saved.
    `randomised` is there for a model that answers at random, whose accuracies are expected ones, and `recapture` where
    each attack of a cascade was run alone too, on a sample.
    `path` is where the record was read from; it is neither written nor compared.
    """

    id: str
    model: str
    weights_hash: str
    recipe: str | None
    preset: str | None
    seeds: tuple[int, ...]
    checkpoint: str | None
    step: int | None
    architecture: Mapping[str, Any] | None
    parameters: int
    flops: int | None
    forward_passes: int
    dataset: str
    data_name: str
    data_hash: str
    split: str
    n: int
    threat: Threat
    suite: str
    seed: int
    clean: CleanScore
    robust: RobustScore
    attacks: tuple[AttackResult, ...]
    blackbox: Blackbox | None
    warnings: tuple[NamedWarning, ...]
    seconds: float
    device: str
    versions: Mapping[str, str]
    commit: str | None
    view: str | None = None
    cascade: bool | None = None
    training: Mapping[str, Any] | None = None
    images: SavedImages | None = None
    search: Search | None = None
    randomised: Randomised | None = None
    recapture: Recapture | None = None
    samples_hash: str | None = None
    schema: int = SCHEMA
    path: Path | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "architecture", plain(self.architecture))
        object.__setattr__(self, "versions", plain(self.versions))
        object.__setattr__(self, "training", plain(self.training))

    @property
    def run(self) -> str:
        """Name of the run that the model comes from: `model` without its view and, if it has one, its checkpoint."""
        whole = self.model.removesuffix(f"#{self.view}")
        return whole.rpartition("/")[0] or whole if self.checkpoint else whole

    def attack(self, name: str) -> AttackResult | None:
        """Return the result of the attack called `name`, or None where the suite does not hold it."""
        return next((attack for attack in self.attacks if attack.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """Return what record.json holds, as plain JSON values."""
        values = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "path"}
        for name in ("training", "images", "search", "randomised", "recapture", "samples_hash"):
            if getattr(self, name) is None:
                del values[name]  # a record from before is written as it was
        return values

    @classmethod
    def from_dict(cls, values: Any, *, path: Path | None = None) -> "Record":
        """Build the record that `values` describes, checking every field.

        Raises RecordError, naming the file and the field, for unknown or missing fields, wrong types, accuracies
        outside [0, 1] and counts that do not match.
        """
        try:
            record: Record = decode(cls, values, "record", skip=("path",))
            _check(record)
        except ValueError as error:
            raise RecordError(f"{path or 'record'}: {error}") from None
        return dataclasses.replace(record, path=path)


def _check(record: Record) -> None:
    """Raise ValueError, naming the field, where the numbers of `record` contradict each other."""
    if record.schema != SCHEMA:
        raise ValueError(f"schema: expected {SCHEMA}, got {record.schema}")
    if not re.fullmatch(r"[0-9a-f]{64}", record.id):
        raise ValueError(f"id: expected 64 hex digits, got {record.id!r}")
    if record.threat.norm not in NORMS or record.threat.eps <= 0:
        raise ValueError(f"threat: expected norm linf or l2 and eps > 0, got {record.threat.norm} {record.threat.eps}")
    for name in ("n", "parameters", "forward_passes"):
        if getattr(record, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(record, name)}")
    counted = record.randomised is None
    _check_score("clean", record.clean.correct, record.clean, counted=counted)
    _check_score("robust", record.robust.robust, record.robust, counted=counted)
    for name, score in (("clean", record.clean), ("robust", record.robust)):
        if score.n != record.n:
            raise ValueError(f"{name}.n: expected the record's n {record.n}, got {score.n}")
    names = [attack.name for attack in record.attacks]
    if len(set(names)) != len(names):
        raise ValueError(f"attacks: an attack stands twice in {', '.join(names)}")
    for attack in record.attacks:
        _check_attack(attack, record)
    left = record.clean.correct - sum(attack.credit for attack in record.attacks)
    if left != record.robust.robust:
        raise ValueError(
            f"robust.robust: clean.correct less the attacks' credits leaves {left}, got {record.robust.robust}"
        )
    if record.blackbox is not None:
        for surrogate in record.blackbox.surrogates:
            _check_fraction("blackbox.surrogates.accuracy", surrogate.accuracy)
        _check_fraction("blackbox.keep_rate", record.blackbox.keep_rate)
    if record.images is not None:
        _check_images(record.images, sum(attack.credit for attack in record.attacks))
    if record.recapture is not None:
        _check_recapture(record.recapture, record)
    if record.training is not None:
        check_training(record.training)


def _check_images(images: SavedImages, credits: int) -> None:
    if images.format not in IMAGE_FORMATS:
        raise ValueError(f"images.format: expected {' or '.join(IMAGE_FORMATS)}, got {images.format!r}")
    if images.broken != credits:
        raise ValueError(f"images.broken: the attacks' credits are {credits}, got {images.broken}")
    for name in ("confirmed", "rounded"):
        if not 0 <= (count := getattr(images, name)) <= images.broken:
            raise ValueError(f"images.{name}: expected 0 to broken {images.broken}, got {count}")


def _check_recapture(found: Recapture, record: Record) -> None:
    sampled, stand = found.survivors + found.broken, record.robust.robust
    for name, most in (("survivors", stand), ("fell", found.survivors)):
        if not 0 <= (count := getattr(found, name)) <= most:
            raise ValueError(f"recapture.{name}: expected 0 to {most}, got {count}")
    if not 0 <= found.low <= found.hidden <= found.high <= stand:
        shown = f"{found.hidden} [{found.low}, {found.high}]"
        raise ValueError(f"recapture.hidden: expected an interval in [0, {stand}] around it, got {shown}")
    for attack in found.alone:
        if record.attack(attack.name) is None or not 0 <= attack.broken <= sampled:
            raise ValueError(f"recapture.alone: {attack.name} broke {attack.broken} of {sampled} sampled images")


def check_training(training: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, for what is no `training` of a record."""
    for key, value in training.items():
        if key not in TRAINING:
            raise ValueError(f"unknown field {key!r} in training")
        if not isinstance(value, TRAINING[key]) or isinstance(value, bool) != (TRAINING[key] == (bool,)):
            kinds = " or ".join(
                {"dict": "object", "NoneType": "null"}.get(t.__name__, t.__name__) for t in TRAINING[key]
            )
            raise ValueError(f"training.{key}: expected {kinds}, got {value!r}")
    for key in ("steps", "eps"):
        if key in training and training[key] <= 0:
            raise ValueError(f"training.{key}: expected a number above 0, got {training[key]}")


def _check_attack(attack: AttackResult, record: Record) -> None:
    where = f"attacks.{attack.name}"
    if not 0 <= attack.n <= record.n:
        raise ValueError(f"{where}.n: expected 0 to {record.n}, got {attack.n}")
    if attack.credit < 0 or attack.credit > attack.n - attack.robust:
        raise ValueError(f"{where}.credit: expected 0 to n − robust {attack.n - attack.robust}, got {attack.credit}")
    if attack.n == record.n and attack.robust < record.robust.robust:
        raise ValueError(f"{where}.robust: {attack.robust} is below the worst case {record.robust.robust}")
    if attack.stages is not None and record.randomised is None:  # whose attacks go on where the vote is wrong
        # An attack on the nearest images alone counts those that it did not meet as robust too, and meets more of them
        # in turns, in which a chain may end after fewer stages.
        some = "one_in" in attack.settings
        left = attack.stages[0].attacked if attack.stages else -1
        for stage in attack.stages:
            met = stage.attacked <= left if some else stage.attacked == left
            if not met or not 0 <= stage.broken <= left:
                raise ValueError(f"{where}.stages: {stage.name} met {stage.attacked} images, {left} were left")
            left -= stage.broken
        if left > attack.robust or (left < attack.robust and not some):
            raise ValueError(f"{where}.stages: they leave {left} images, robust is {attack.robust}")
    for value in attack.curve or ():
        _check_fraction(f"{where}.curve", value)
    if attack.n == 0:
        if (attack.robust, attack.accuracy, attack.ci_low, attack.ci_high) != (0, None, None, None):
            raise ValueError(f"{where}: no image was attacked, so robust must be 0 and accuracy null")
    else:
        _check_score(where, attack.robust, attack, counted=record.randomised is None)


def _check_score(where: str, count: int, score: CleanScore | RobustScore | AttackResult, *, counted: bool) -> None:
    accuracy, low, high = score.accuracy, score.ci_low, score.ci_high
    if accuracy is None or low is None or high is None:
        raise ValueError(f"{where}: accuracy, ci_low and ci_high must be numbers, as n is {score.n}")
    for name, value in (("accuracy", accuracy), ("ci_low", low), ("ci_high", high)):
        _check_fraction(f"{where}.{name}", value)
    if not 0 <= count <= score.n:
        raise ValueError(f"{where}: expected 0 to n = {score.n} images, got {count}")
    if counted and not math.isclose(accuracy, count / score.n, abs_tol=1e-9):
        raise ValueError(f"{where}.accuracy: {count} of {score.n} images make {count / score.n}, got {accuracy}")
    if not low - 1e-9 <= accuracy <= high + 1e-9:
        raise ValueError(f"{where}.ci_low: the interval [{low}, {high}] does not hold the accuracy {accuracy}")


def _check_fraction(where: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{where}: expected a fraction in [0, 1], got {value}")
