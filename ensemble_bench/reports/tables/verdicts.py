"""Verdicts as tables: every number for verdicts.csv, and for readers a line a claim."""

from collections.abc import Sequence

from ensemble_bench.records.contrasts import MIN_SEEDS
from ensemble_bench.records.table import Table, Value
from ensemble_bench.reports.groups import group_columns
from ensemble_bench.reports.verdicts import Verdict, by_family, points, rows_text, seeds_of

COLUMNS = (
    *("claim", "outcome", "left", "left_seeds", "left_accuracy", "right", "right_seeds", "right_accuracy", "images"),
    *("difference", "margin", "p_value", "p_holm", "claims", "parameters", "flops"),
)
SUMMARY = {
    "sentence": "claim",
    "outcome": "verdict",
    "difference": "points [95 %]",
    "p_holm": "p, corrected",
    "parameters": "parameters",
    "flops": "FLOPs",
}


def verdict_tables(found: Sequence[Verdict]) -> list[Table]:
    """Return the verdicts as tables, one a family, for verdicts.csv."""
    tables = []
    for same in by_family(found):
        family = same[0].family
        about = group_columns(family.group, family.carried)
        about |= {"suite": family.suite, "split": family.split, "changes": family.changes}
        about |= {"conditions": family.apart} if family.apart else {}
        tables.append(
            Table(
                name="verdicts",
                title="Verdicts on the claims",
                caption=family.where,
                columns=COLUMNS,
                keys=COLUMNS,
                rows=tuple(map(_cells, same)),
                about=about,
            )
        )
    return tables


def _cells(verdict: Verdict) -> tuple[str | int | Value | None, ...]:
    judged, test = verdict.judgement, verdict.judgement.contrast
    left, right = verdict.scores
    low, high = (None, None) if test is None else (test.ci_low, test.ci_high)
    return (
        *(verdict.claim.name, verdict.outcome, rows_text(verdict.left), seeds_of(verdict.left), left),
        *(rows_text(verdict.right), seeds_of(verdict.right), right, verdict.images),
        *(Value(accuracy=judged.difference, ci_low=low, ci_high=high), f"{verdict.claim.margin:.4f}"),
        *(None if test is None else f"{test.p_value:.6f}", None if judged.p_holm is None else f"{judged.p_holm:.6f}"),
        *(judged.tested, f"{verdict.parameters:.4f}", None if verdict.flops is None else f"{verdict.flops:.4f}"),
    )


def verdict_summaries(found: Sequence[Verdict]) -> list[Table]:
    """Return a table a family: each claim with its verdict, the difference, and the cost of the other side."""
    return [
        Table(
            name="verdict_summary",
            title=f"The paper's claims: suite {same[0].family.suite}",
            caption=(
                f"{same[0].where}. Points of robust accuracy by which the first side of a claim is above the other, "
                "with the 95 % interval over seeds and images. Parameters and FLOPs: the other side's, in multiples of "
                f"the first's. No test with fewer than {MIN_SEEDS} seeds of a recipe."
            ),
            columns=tuple(SUMMARY.values()),
            keys=tuple(SUMMARY),
            rows=tuple(map(_line, same)),
        )
        for same in by_family(found)
    ]


def _line(verdict: Verdict) -> tuple[str | None, ...]:
    judged, test = verdict.judgement, verdict.judgement.contrast
    interval = "" if test is None else f" [{points(test.ci_low)}, {points(test.ci_high)}]"
    return (
        f"{verdict.claim.sentence} ({verdict.claim.name})",
        verdict.outcome if test is not None else f"{verdict.outcome}: too few seeds",
        points(judged.difference) + interval,
        None if judged.p_holm is None else "< 0.001" if judged.p_holm < 0.001 else f"{judged.p_holm:.3f}",
        f"{verdict.parameters:.2f} ×",
        None if verdict.flops is None else f"{verdict.flops:.2f} ×",
    )
