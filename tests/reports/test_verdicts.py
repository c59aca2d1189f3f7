"""Verdicts on images whose fate is planted."""

import csv
from pathlib import Path

import numpy as np
import pytest
from planted_verdicts import three, verdict_on
from synthetic_runs import build_runs

from ensemble_bench.records import (
    described,
    find_records,
)
from ensemble_bench.records.contrasts import contrast, holm, seed_variance
from ensemble_bench.records.statistics import wilson
from ensemble_bench.records.table import Value, to_csv
from ensemble_bench.registry import RECIPES, SUITES
from ensemble_bench.reports import write_report
from ensemble_bench.reports.claims import CLAIMS, PRIMARY
from ensemble_bench.reports.tables.verdicts import verdict_summaries, verdict_tables
from ensemble_bench.reports.verdicts import judge, notes_on_missing_verdicts, verdicts


def test_claims_name_recipes_and_suites() -> None:
    for name, claim in CLAIMS.items():
        assert name == claim.name
        assert set(claim.recipes) <= RECIPES.keys()
        assert not set(claim.left) & set(claim.right)
        assert (claim.margin > 0) == (claim.direction == "not more")
    assert PRIMARY.keys() <= SUITES.keys()


def test_the_two_causes_are_the_effects_of_a_two_by_two_factorial() -> None:
    # attacked: ensemble (e) or members (m); learned: loss of the mean (m) or own (o)
    cells = {"ensemble2adv": "em", "jointattack2adv": "eo", "jointloss2adv": "mm", "separate2adv": "mo"}
    for name, left in (("attacked", {"em", "eo"}), ("learned", {"em", "mm"}), ("interaction", {"em", "mo"})):
        claim = CLAIMS[f"cause-{name}"]
        assert {cells[recipe] for recipe in claim.left} == left
        assert {cells[recipe] for recipe in claim.right} == set(cells.values()) - left


@pytest.mark.parametrize(
    ("left", "right", "outcome"),
    [
        ((600, 605, 610), (400, 405, 410), "shown"),
        ((400, 405, 410), (600, 605, 610), "reversed"),
        ((500, 505, 510), (500, 505, 510), "not shown"),
        ((400, 500, 600), (360, 460, 560), "not shown"),  # by seeds, though all images agree
    ],
)
def test_the_outcome(tmp_path: Path, left: tuple[int, ...], right: tuple[int, ...], outcome: str) -> None:
    a, b = three(tmp_path, "ensemble2adv", *left), three(tmp_path, "doubleadv", *right)
    verdict = verdict_on(tmp_path)
    expected = contrast([np.array(a)], [np.array(b)], pooled=seed_variance([np.array(a), np.array(b)]))
    assert verdict.judgement.contrast == expected
    assert verdict.judgement.p_holm == expected.p_value  # the only claim with records
    assert verdict.outcome == outcome
    assert str(verdict).startswith(f"{outcome}: two networks")
    assert verdict.judgement.difference == pytest.approx((np.mean(left) - np.mean(right)) / 1000)


@pytest.mark.parametrize(
    ("ensemble", "outcome"), [((101, 102, 103), "shown"), ((110, 111, 112), "not shown"), ((150, 151, 152), "reversed")]
)
def test_at_most_one_point_more(tmp_path: Path, ensemble: tuple[int, ...], outcome: str) -> None:
    three(tmp_path, "ensemble2", *(10 * count for count in ensemble), n=10_000)
    three(tmp_path, "baseline", 1010, 1020, 1030, n=10_000)
    verdict = verdict_on(tmp_path, "ensembling-alone-2")
    assert (verdict.outcome, verdict.claim.margin) == (outcome, 0.01)


def test_an_interaction_has_no_reverse(tmp_path: Path) -> None:
    counts = {"ensemble2adv": 300, "separate2adv": 300, "jointattack2adv": 500, "jointloss2adv": 500}
    for recipe, count in counts.items():
        three(tmp_path, recipe, count, count + 2, count + 4)
    verdict = verdict_on(tmp_path, "cause-interaction")
    assert (verdict.outcome, verdict.judgement.difference) == ("shown", pytest.approx(-0.2))
    assert verdict_on(tmp_path, "cause-attacked").judgement.difference == pytest.approx(0)


def test_the_sentence(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 600, 605, 610, flops=1_000_000)
    three(tmp_path, "separate2adv", 400, 405, 410, flops=1_100_000)
    verdict = verdict_on(tmp_path, "apart-2")
    assert str(verdict) == (
        "shown: two networks are more robust trained as one model than apart (apart-2): +20.0 points [+17.4, +22.6], "
        "p < 0.001; ensemble2adv (seeds 0, 1, 2) against separate2adv (seeds 0+1, 2+3, 4+5; 1.00 × the parameters "
        "(equal) and 1.10 × the FLOPs), n = 1,000"
    )
    assert verdict.where == (
        "digits, preset tiny, linf 8/255, suite quick, test split; named beforehand: all test images; "
        "p-values by Holm over 1 claim"
    )


def test_the_sentence_on_sides_of_two_recipes(tmp_path: Path) -> None:
    for recipe, counts in (("ensemble2adv", (30, 30)), ("jointattack2adv", (20,))):
        three(tmp_path, recipe, *counts, n=100)
    for recipe in ("jointloss2adv", "separate2adv"):
        three(tmp_path, recipe, 10, n=100)
    assert str(verdict_on(tmp_path, "cause-attacked")) == (
        "not shown: attacking the ensemble in training gives more robustness than attacking each member "
        "(cause-attacked): +15.0 points, but it needs at least 3 seeds of ensemble2adv and jointattack2adv and "
        "jointloss2adv and separate2adv; ensemble2adv and jointattack2adv (seeds 0, 1 and 0) against jointloss2adv and "
        "separate2adv (seed 0 and 0+1; 1.00 × the parameters (equal) and 1.00 × the FLOPs (equal)), n = 100"
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_no_result_of_a_recipe(tmp_path: Path, seeds: int) -> None:
    three(tmp_path, "ensemble2adv", *[900] * seeds)
    three(tmp_path, "doubleadv", 100, 100, 100)
    verdict = verdict_on(tmp_path)
    assert (verdict.outcome, verdict.judgement.contrast, verdict.judgement.p_holm) == ("not shown", None, None)
    assert ": +80.0 points, but it needs at least 3 seeds of ensemble2adv; " in str(verdict)
    assert "Holm" not in verdict.where


def test_holm_goes_over_the_claims_that_are_tested(tmp_path: Path) -> None:
    counts = {"ensemble2adv": 520, "doubleadv": 480, "singleadv": 470, "separate2adv": 500, "quadadv": 490}
    for recipe, count in counts.items():
        three(tmp_path, recipe, *(count + 9 * i for i in range(2 if recipe == "quadadv" else 3)))
    found = verdicts(find_records(tmp_path))
    assert [v.claim.name for v in found] == ["capacity-2", "capacity-4", "members-2", "wider-2", "apart-2"]
    tested = [v.judgement for v in found if v.judgement.contrast is not None]
    assert {j.tested for j in tested} == {4} == {len(tested)}
    raw = [j.contrast.p_value for j in tested if j.contrast is not None]
    assert [j.p_holm for j in tested] == holm(raw) != raw


def test_suites_that_were_not_named_beforehand_have_no_verdict(tmp_path: Path) -> None:
    for recipe in ("ensemble2adv", "doubleadv"):
        three(tmp_path, recipe, 500, 500, 500, suite="autoattack")
    assert verdicts(find_records(tmp_path)) == []
    assert notes_on_missing_verdicts(find_records(tmp_path)) == [
        "No verdict under suite quick: no record of a claim's recipe under it.",
        "No verdict under suite strongest: no record of a claim's recipe under it.",
    ]


def test_the_note_names_claims_and_what_they_lack(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 5, 5, 5, n=10)
    three(tmp_path, "doubleadv", 5, 5, 5, n=10)
    quick, other = sorted(notes_on_missing_verdicts(find_records(tmp_path)), key=len, reverse=True)
    assert other == "No verdict under suite strongest: no record of a claim's recipe under it."
    claims, _, missing = quick.partition(": no records of ")
    assert "capacity-2, " in claims
    assert "members-2, " in claims
    assert "wider-2" not in claims
    recipes = missing.partition(" (")[0].split(", ")
    assert {"singleadv", "quadadv", "ensemble4adv"} < set(recipes)
    assert not {"ensemble2adv", "doubleadv"} & set(recipes)
    assert recipes == [recipe for recipe in RECIPES if recipe in recipes]  # in the order of the tables' rows
    assert quick.endswith(" (digits, preset tiny, linf 8/255, suite quick, test split).")


def test_families_that_lack_the_same_share_a_note(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 5, n=10)
    assert "more" not in notes_on_missing_verdicts(find_records(tmp_path))[1]
    three(tmp_path / "cifar10", "ensemble2adv", 5, n=10, preset="small")
    _, note = notes_on_missing_verdicts(find_records(tmp_path))
    assert note.endswith(" (digits, preset small, linf 8/255, suite quick, test split; and 1 more).")


def test_accuracies_carry_the_interval_of_the_images_and_the_spread_over_seeds(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 510, 520)
    three(tmp_path, "doubleadv", 400, 400, 400)
    left, right = verdict_on(tmp_path).scores
    low, high = wilson(510, 1000)
    assert left == Value(accuracy=pytest.approx(0.51), sd=pytest.approx(0.01), ci_low=low, ci_high=high)
    assert (right.accuracy, right.sd) == pytest.approx((0.4, 0.0))


def test_the_page_of_the_docs_names_every_claim() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "claims.md").read_text()
    for claim in CLAIMS.values():
        left, right = (", ".join(f"`{recipe}`" for recipe in side) for side in (claim.left, claim.right))
        assert f"| `{claim.name}` | {claim.sentence} | {left} | {right} |\n" in page
    assert page.count("\n| `") == len(CLAIMS)


def test_judgements_need_the_images_in_common() -> None:
    claim = CLAIMS["wider-2"]
    assert judge([], []) == []
    (found,) = judge([(claim, [np.ones((1, 5), bool)], [np.zeros((3, 5), bool)])], [])
    assert (found.difference, found.outcome) == (1.0, "not shown")


def test_a_row_of_the_csv_holds_what_was_measured(tmp_path: Path) -> None:
    left = three(tmp_path, "ensemble2adv", 520, 525, 530, parameters=10_000, flops=1_000_000)
    right = three(tmp_path, "doubleadv", 505, 510, 515, parameters=12_500, flops=1_500_000)
    three(tmp_path, "singleadv", 300, parameters=10_000, flops=None)
    (table,) = verdict_tables(verdicts(find_records(tmp_path)))
    assert table.title == "Verdicts on the claims"
    assert table.caption == "digits, preset tiny, linf 8/255, suite quick, test split"
    untested, _, tested = csv.DictReader(to_csv([table]).splitlines())
    test = contrast([np.array(left)], [np.array(right)], pooled=seed_variance([np.array(left), np.array(right)]))
    (low, high), (low_right, high_right) = wilson(525, 1000), wilson(510, 1000)
    about = {"data_name": "digits", "preset": "tiny", "threat": "linf 8/255", "suite": "quick", "split": "test"}
    assert tested == {
        **(about | {"changes": "{}", "claim": "wider-2", "outcome": "shown", "images": "1000", "margin": "0.0000"}),
        "left": "ensemble2adv",
        "left_seeds": "seeds 0, 1, 2",
        "left_accuracy": "0.5250",
        "left_accuracy_sd": "0.0050",
        "left_accuracy_ci_low": f"{low:.4f}",
        "left_accuracy_ci_high": f"{high:.4f}",
        "right": "doubleadv",
        "right_seeds": "seeds 0, 1, 2",
        "right_accuracy": "0.5100",
        "right_accuracy_sd": "0.0050",
        "right_accuracy_ci_low": f"{low_right:.4f}",
        "right_accuracy_ci_high": f"{high_right:.4f}",
        "difference": "0.0150",
        "difference_ci_low": f"{test.ci_low:.4f}",
        "difference_ci_high": f"{test.ci_high:.4f}",
        "p_value": f"{test.p_value:.6f}",
        "p_holm": f"{test.p_value:.6f}",
        "claims": "1",
        "parameters": "1.2500",
        "flops": "1.5000",
    }
    assert (untested["claim"], untested["right_seeds"], untested["difference"]) == ("capacity-2", "seed 0", "0.2100")
    assert {untested[name] for name in ("difference_ci_low", "difference_ci_high", "p_value", "p_holm", "flops")} == {
        ""
    }


def test_the_summary_has_a_line_a_claim(tmp_path: Path) -> None:
    left = three(tmp_path, "ensemble2adv", 520, 525, 530, parameters=10_000, flops=1_000_000)
    right = three(tmp_path, "doubleadv", 505, 510, 515, parameters=12_500, flops=1_500_000)
    three(tmp_path, "singleadv", 530, parameters=10_000, flops=None)
    (table,) = verdict_summaries(verdicts(find_records(tmp_path)))
    test = contrast([np.array(left)], [np.array(right)], pooled=seed_variance([np.array(left), np.array(right)]))
    assert 0.001 <= test.p_value < 0.05
    capacity, members, wider = table.text_rows()
    assert wider == (
        f"{CLAIMS['wider-2'].sentence} (wider-2)",
        "shown",
        f"+1.5 [+{100 * test.ci_low:.1f}, +{100 * test.ci_high:.1f}]",
        f"{test.p_value:.3f}",
        "1.25 ×",
        "1.50 ×",
    )
    assert capacity[1:] == ("not shown: too few seeds", "−2.0", "–", "0.80 ×", "–")
    assert members[1:3] == ("not shown: too few seeds", "−0.5")


def test_a_single_verdict_is_a_table_too(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 5, n=10)
    three(tmp_path, "doubleadv", 5, n=10)
    (table,) = verdict_tables(verdicts(find_records(tmp_path)))
    assert (table.name, len(table.rows), table.about["split"]) == ("verdicts", 1, "test")


def test_the_page_and_the_csv_say_the_same(tmp_path: Path) -> None:
    recipes = ("singleadv", "doubleadv", "ensemble2adv", "separate2adv")
    build_runs(tmp_path / "runs", recipes, seeds=(0, 1, 2), n=90, points=4, suites=("quick",), checkpoints=("best",))
    report = write_report(tmp_path / "runs", tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    lines = list(csv.DictReader((tmp_path / "report" / "verdicts.csv").open()))
    assert tmp_path / "report" / "verdicts.csv" in report.paths
    assert [row["claim"] for row in lines] == [v.claim.name for v in report.verdicts] != []
    for row, verdict in zip(lines, report.verdicts, strict=True):
        test = verdict.judgement.contrast
        assert test is not None
        assert f"({verdict.where}):\n" in page
        assert f"- {verdict}\n" in page
        assert (row["suite"], row["outcome"], row["images"]) == ("quick", verdict.outcome, "90")
        assert row["difference"] == f"{verdict.judgement.difference:.4f}"
        assert (row["difference_ci_low"], row["difference_ci_high"]) == (f"{test.ci_low:.4f}", f"{test.ci_high:.4f}")
        assert row["p_holm"] == f"{verdict.judgement.p_holm:.6f}"
    again = verdicts(map(described, find_records(tmp_path / "runs")))
    assert tuple(again) == report.verdicts
    assert to_csv(verdict_tables(again)) == (tmp_path / "report" / "verdicts.csv").read_text()
