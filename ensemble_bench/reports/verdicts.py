"""Verdicts on the claims: shown, not shown or reversed, over all seeds and images at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, product

from ensemble_bench.records import Record
from ensemble_bench.records.contrasts import MIN_SEEDS, Contrast, Robust, contrast, difference, holm, seed_variance
from ensemble_bench.records.table import Value
from ensemble_bench.reports.claims import CLAIMS, EQUAL, PRIMARY, Claim
from ensemble_bench.reports.groups import place
from ensemble_bench.reports.worst_cases import Family, Row, arrays_of, families, most_images, robust_accuracy

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the images say of a claim: a difference (left less right) and, with enough seeds, how sure it is.

    `p_holm` is the two-sided p-value, corrected over the `tested` claims of the family.
    """

    claim: Claim
    difference: float
    contrast: Contrast | None
    p_holm: float | None
    tested: int

    @property
    def outcome(self) -> str:
        """Return "shown", "not shown" or "reversed"; only the corrected p-value can make it other than not shown."""
        if self.p_holm is None or self.p_holm >= ALPHA:
            return "not shown"
        if self.claim.direction == "differs":
            return "shown"
        above = self.difference > self.claim.margin
        return "shown" if above == (self.claim.direction == "more") else "reversed"


Arrays = Sequence[Robust]  # a recipe each: (seed, image)


def judge(measured: Sequence[tuple[Claim, Arrays, Arrays]], recipes: Arrays) -> list[Judgement]:
    """Judge one family: every claim with the arrays (seed, image) of its recipes, as `contrast` takes them.

    `recipes` are the arrays of all recipes of the family, each once; over those on as many images as a claim has the
    variance between seeds is pooled. A claim with fewer than `MIN_SEEDS` seeds of a recipe is not tested and takes no
    part in the correction.
    """
    found = [
        contrast(left, right, null=claim.margin, pooled=seed_variance(recipes, least=left[0].shape[1]))
        if min(len(recipe) for recipe in (*left, *right)) >= MIN_SEEDS
        else None
        for claim, left, right in measured
    ]
    corrected = iter(holm([test.p_value for test in found if test is not None]))
    tested = sum(test is not None for test in found)
    return [
        Judgement(
            claim=claim,
            difference=difference(left, right) if test is None else test.difference,
            contrast=test,
            p_holm=None if test is None else next(corrected),
            tested=tested,
        )
        for (claim, left, right), test in zip(measured, found, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judgement of a claim in a family of records: between which rows, on how many images, at what cost.

    `scores` are the means of the left and the right side, with their intervals for the images and, of one recipe with
    several seeds, the spread over these; `parameters` and `flops` what the right costs, as a
    multiple of the left (`flops` None where unknown).
    """

    family: Family
    judgement: Judgement
    left: tuple[Row, ...]
    right: tuple[Row, ...]
    images: int
    scores: tuple[Value, Value]
    parameters: float
    flops: float | None

    @property
    def claim(self) -> Claim:
        """The claim that is judged."""
        return self.judgement.claim

    @property
    def outcome(self) -> str:
        """Return "shown", "not shown" or "reversed"."""
        return self.judgement.outcome

    @property
    def accuracies(self) -> tuple[float, float]:
        """Mean robust accuracies of the left and of the right side."""
        left, right = self.scores
        return left.accuracy, right.accuracy

    @property
    def where(self) -> str:
        """What was measured, the same for all verdicts of a family."""
        tested = self.judgement.tested
        corrected = f"; p-values by Holm over {tested} claim{'s' if tested > 1 else ''}" if tested else ""
        return f"{self.family.where}; named beforehand: {PRIMARY[self.family.suite]}{corrected}"

    @property
    def short_of(self) -> tuple[str, ...]:
        """Labels of the rows that have too few seeds for a test."""
        return tuple(row.label for row in (*self.left, *self.right) if len(row.runs) < MIN_SEEDS)

    def __str__(self) -> str:
        claim = self.claim
        cost = f"{self.parameters:.2f} × the parameters{_equal(self.parameters)}"
        if self.flops is not None:
            cost += f" and {self.flops:.2f} × the FLOPs{_equal(self.flops)}"
        return (
            f"{self.outcome}: {claim.sentence} ({claim.name}): {self._found}; "
            f"{rows_text(self.left)} ({seeds_of(self.left)}) against "
            f"{rows_text(self.right)} ({seeds_of(self.right)}; {cost}), n = {self.images:,}"
        )

    @property
    def _found(self) -> str:
        test, gap = self.judgement.contrast, f"{points(self.judgement.difference)} points"
        if test is None:
            return f"{gap}, but it needs at least {MIN_SEEDS} seeds of {' and '.join(self.short_of)}"
        p_holm = self.judgement.p_holm or 0.0
        p = "p < 0.001" if p_holm < 0.001 else f"p = {p_holm:.3f}"
        return f"{gap} [{points(test.ci_low)}, {points(test.ci_high)}], {p}"


def verdicts(records: Iterable[Record]) -> list[Verdict]:
    """Judge every claim under each primary suite where all of its recipes have records, all seeds in one verdict.

    The claims of one data set, preset, threat and suite are a family, over which Holm's correction goes. Raises
    RecordError when the samples beside a record that is compared are missing or contradict it.
    """
    return [verdict for family in _families(records) for verdict in _judged(family)]


def notes_on_missing_verdicts(records: Iterable[Record]) -> list[str]:
    """Return notes on claims without a verdict and the records they lack, and on runs that no verdict counts."""
    records = list(records)
    found = _families(records)
    without = [suite for suite in PRIMARY if records and all(family.suite != suite for family in found)]
    notes = [f"No verdict under suite {suite}: no record of a claim's recipe under it." for suite in without]
    lacking: dict[str, list[str]] = {}
    again: dict[str, list[str]] = {}
    for family in found:
        without_verdict = [c for c in CLAIMS.values() if any(recipe not in family.rows for recipe in c.recipes)]
        if without_verdict:
            missing = {recipe for claim in without_verdict for recipe in claim.recipes} - set(family.rows)
            names = ", ".join(claim.name for claim in without_verdict)
            text = f"No verdict on {names}: no records of {', '.join(sorted(missing, key=place))}"
            lacking.setdefault(text, []).append(family.where)
        runs = [run.where for rows in family.rows.values() for row in rows for run in row.again]
        if runs:
            again.setdefault(f"In no verdict, as another run has its seed: {', '.join(runs)}", []).append(family.where)
    return notes + [f"{text} ({_several(where)})." for text, where in (lacking | again).items()]


def _several(texts: Sequence[str]) -> str:
    """The first of the texts, and how many more there are."""
    others = len(texts) - 1
    return texts[0] + (f"; and {others} more" if others else "")


def by_family(found: Iterable[Verdict]) -> list[list[Verdict]]:
    """Return the verdicts of each family, in their order."""
    return [list(same) for _, same in groupby(found, key=lambda verdict: verdict.family)]


def _families(records: Iterable[Record]) -> list[Family]:
    return families(records, suites=PRIMARY, recipes={name for claim in CLAIMS.values() for name in claim.recipes})


def _judged(family: Family) -> list[Verdict]:
    sides = [
        (claim, *most_images(rows[: len(claim.left)], rows[len(claim.left) :]))
        for claim in CLAIMS.values()
        for rows in product(*(family.rows.get(recipe, ()) for recipe in claim.recipes))
    ]
    measured = [
        (claim, [row.on(ids) for row in left], [row.on(ids) for row in right]) for claim, left, right, ids in sides
    ]
    recipes = arrays_of(row for rows in family.rows.values() for row in rows)
    return [
        Verdict(
            family=family,
            judgement=judgement,
            left=left,
            right=right,
            images=len(ids),
            scores=(robust_accuracy(left_robust), robust_accuracy(right_robust)),
            parameters=_mean([row.parameters for row in right]) / _mean([row.parameters for row in left]),
            flops=_flops(left, right),
        )
        for judgement, (_, left, right, ids), (_, left_robust, right_robust) in zip(
            judge(measured, recipes), sides, measured, strict=True
        )
    ]


def _flops(left: Sequence[Row], right: Sequence[Row]) -> float | None:
    a, b = ([row.flops for row in side if row.flops is not None] for side in (left, right))
    if len(a) < len(left) or len(b) < len(right):
        return None
    return _mean(b) / _mean(a)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _equal(ratio: float) -> str:
    return " (equal)" if abs(ratio - 1) <= EQUAL else ""


def points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign: "−1.2"."""
    return f"{100 * value:+.1f}".replace("-", "−")


def rows_text(rows: Sequence[Row]) -> str:
    """Labels of the rows of a side."""
    return " and ".join(row.label for row in rows)


def seeds_of(rows: Sequence[Row]) -> str:
    """Return the seeds of the rows, once where all have the same: "seeds 0, 1, 2"."""
    texts = list(dict.fromkeys(row.seeds for row in rows))
    return f"seed{'s' if any(len(row.runs) > 1 for row in rows) else ''} {' and '.join(texts)}"
