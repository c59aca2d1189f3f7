"""Comparisons of models whose images' fates are planted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_runs import make_record, write

from ensemble_bench.cli import run
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.records import find_records
from ensemble_bench.records.contrasts import contrast, holm, paired, seed_variance
from ensemble_bench.records.statistics import mcnemar, wilson
from ensemble_bench.reports.comparison import Comparison, compare, records_at

Bools = NDArray[np.bool_]


def first(count: int, n: int = 400) -> Bools:
    """True on the first `count` of n images."""
    return np.arange(n) < count


def planted(root: Path, recipe: str | None, robust: Bools, seed: int = 0, **fields: Any) -> Path:
    """The run of a model that withstands sweep10 on the images where `robust` holds."""
    about = {"suite": "quick", "recipe": recipe, "seeds": (seed,), **fields}
    record, samples = make_record([True] * len(robust), {"sweep10": list(map(bool, robust))}, **about)
    return write(record, samples, root / record.run)


def compared(root: Path, **options: Any) -> Comparison:
    return compare(find_records(root), **options)


def test_two_models_are_compared_by_mcnemars_test_of_these_weights(tmp_path: Path) -> None:
    a, b = first(300), ~first(120)
    planted(tmp_path, "singleadv", b)
    planted(tmp_path, "doubleadv", a)
    (pair,) = compared(tmp_path).pairs
    exact = mcnemar(a, b)
    assert (pair.left.recipe, pair.right.recipe) == ("doubleadv", "singleadv")  # the more robust one first
    assert pair.only == (exact.only_a, exact.only_b) == (120, 100)
    assert pair.contrast == paired(a, b)
    assert pair.contrast.p_value == pair.p_holm == exact.p_value
    assert pair.contrast.difference == pytest.approx(20 / 400)
    assert pair.contrast.ci_low < 20 / 400 < pair.contrast.ci_high


def test_three_seeds_are_one_row_and_the_test_is_over_seeds_and_images(tmp_path: Path) -> None:
    left, right = ([first(count + 5 * seed) for seed in range(3)] for count in (250, 200))
    for seed in range(3):
        planted(tmp_path, "ensemble2adv", left[seed], seed)
        planted(tmp_path, "doubleadv", right[seed], seed)
    (pair,) = compared(tmp_path).pairs
    sides = [np.array(left)], [np.array(right)]
    assert pair.contrast == contrast(*sides, pooled=seed_variance([*sides[0], *sides[1]]))
    assert pair.only is None
    (row,) = compared(tmp_path).table.text_rows()
    low, high = wilson(255, 400)
    (mean, sd), found = (255 / 400, 5 / 400), pair.scores[0]
    assert (found.accuracy, found.sd, found.ci_low, found.ci_high) == pytest.approx((mean, sd, low, high))
    assert {"ensemble2adv (seeds 0, 1, 2)", "doubleadv (seeds 0, 1, 2)", "recipes"} <= set(row)


@pytest.mark.parametrize(("left", "right"), [(2, 2), (3, 1), (1, 2)])
def test_too_few_seeds_give_a_difference_without_a_test(tmp_path: Path, left: int, right: int) -> None:
    for recipe, count, seeds in (("ensemble2adv", 250, left), ("doubleadv", 200, right)):
        for seed in range(seeds):
            planted(tmp_path, recipe, first(count), seed)
    (pair,) = compared(tmp_path).pairs
    assert (pair.contrast, pair.only, pair.p_holm) == (None, None, None)
    assert pair.accuracies == (250 / 400, 200 / 400)


def test_p_values_are_corrected_over_all_pairs_of_the_table(tmp_path: Path) -> None:
    for recipe, count in (("singleadv", 200), ("doubleadv", 208), ("ensemble2adv", 211)):
        planted(tmp_path, recipe, first(count))
    pairs = compared(tmp_path).pairs
    assert [pair.p_holm for pair in pairs] == holm([pair.contrast.p_value for pair in pairs if pair.contrast])
    assert "over 3 comparisons" in compared(tmp_path).table.caption


def test_only_what_was_attacked_alike_is_compared(tmp_path: Path) -> None:
    planted(tmp_path, "singleadv", first(200))
    planted(tmp_path, "doubleadv", first(210))
    alone = planted(tmp_path, "ensemble2adv", first(220), suite="paper")
    found = compared(tmp_path)
    assert [pair.family.suite for pair in found.pairs] == ["quick"]
    assert [note for note in found.notes if "ensemble2adv" in note and "nothing else was attacked alike" in note]
    with pytest.raises(InvalidValueError, match="no two of these were attacked alike"):
        compare(records_at([alone]))
    with pytest.raises(InvalidValueError, match="suite is 'strongest': these records are of paper, quick"):
        compared(tmp_path, suite="strongest")


def test_models_without_a_recipe_are_rows_of_their_own(tmp_path: Path) -> None:
    for name, count in (("theirs", 300), ("others", 250)):
        fields = {"model": name, "checkpoint": None, "preset": None, "weights_hash": f"sha256:{count:064x}"}
        planted(tmp_path / name, None, first(count), **fields, training=None)
    (pair,) = compared(tmp_path).pairs
    assert (pair.left.label, pair.right.label, pair.images) == ("theirs", "others", 400)


def test_a_trained_model_is_compared_with_one_from_elsewhere_and_across_presets(tmp_path: Path) -> None:
    planted(tmp_path, "singleadv", first(300))
    other = {"model": "theirs", "checkpoint": None, "preset": None, "weights_hash": f"sha256:{1:064x}"}
    planted(tmp_path / "theirs", None, first(250), **other, training=None)
    assert {pair.left.label for pair in compared(tmp_path).pairs} == {"singleadv"}
    planted(tmp_path / "small", "doubleadv", first(200), preset="small")
    rows = {row.label for pair in compared(tmp_path).pairs for row in (pair.left, pair.right)}
    assert rows == {"singleadv (preset tiny)", "theirs", "doubleadv (preset small)"}


def test_averaged_and_last_weights_of_one_run_are_compared(tmp_path: Path) -> None:
    for recipe, checkpoint, count in (
        ("doubleadv", "averaged", 300),
        ("doubleadv", "last", 250),
        ("ensemble2adv", "averaged", 270),
    ):
        planted(tmp_path, recipe, first(count), checkpoint=checkpoint, weights_hash=f"sha256:{count:064x}")
    found = compared(tmp_path)
    averaged, last = "doubleadv (averaged weights)", "doubleadv (last weights)"
    other = "ensemble2adv (averaged weights)"
    pairs = {(pair.left.label, pair.right.label) for pair in found.pairs}
    assert (pairs, found.notes) == ({(averaged, last), (averaged, other), (other, last)}, ())


def test_members_of_one_run_are_models_of_their_own(tmp_path: Path) -> None:
    for view, count in (("member1", 300), ("member2", 250)):
        model = f"ensemble2adv-digits-tiny-s0/best#{view}"
        planted(tmp_path / view, "ensemble2adv", first(count), view=view, model=model)
    (pair,) = compared(tmp_path).pairs
    assert [pair.left.label, pair.right.label] == ["ensemble2adv, part member1", "ensemble2adv, part member2"]
    assert pair.accuracies == (300 / 400, 250 / 400)


def test_a_try_on_few_images_is_no_noise_between_seeds(tmp_path: Path) -> None:
    for recipe, count in (("ensemble2adv", 300), ("doubleadv", 260)):
        for seed in range(3):
            planted(tmp_path, recipe, first(count + seed), seed)
    (before,) = compared(tmp_path).pairs
    planted(tmp_path, "doubleadv", first(1, n=10), 3)
    (after,) = compared(tmp_path).pairs
    assert after.contrast == before.contrast is not None


def test_pairs_of_other_conditions_are_told_apart(tmp_path: Path) -> None:
    for tree, counts in (("", (300, 250)), ("-dirty", (250, 300))):
        for recipe, count in zip(("singleadv", "doubleadv"), counts, strict=True):
            planted(tmp_path / f"runs{tree}", recipe, first(count), commit="1" * 40 + tree)
    planted(tmp_path, "singleadv", first(9), suite="paper")
    planted(tmp_path, "doubleadv", first(8), suite="paper")
    of = [row[0] for row in compared(tmp_path).table.rows]
    where = "digits, preset tiny, linf 8/255, suite quick, test split, tree"
    assert sorted(of) == [f"{where} clean", f"{where} dirty", "paper"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{empty}"], "holds no record"),
        (["{one}"], "no two of these were attacked alike"),
    ],
)
def test_the_command_names_what_it_cannot_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    planted(tmp_path / "one", "singleadv", first(200))
    places = {name: tmp_path / name for name in ("empty", "one")}
    assert run(["compare", *(argument.format(**places) for argument in arguments)]) == 2
    assert says in capsys.readouterr().err


def test_the_command_writes_the_table_that_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [planted(tmp_path / "runs", recipe, first(count)) for recipe, count in (("singleadv", 9), ("doubleadv", 8))]
    assert run(["compare", *map(str, runs)]) == 0
    assert "singleadv (seed 0)" in capsys.readouterr().out
    assert run(["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "singleadv (seed 0) | 2.2 [1.2, 4.2] | doubleadv (seed 0)" in (tmp_path / "out/comparison.md").read_text()
    assert (tmp_path / "out/comparison.csv").read_text().splitlines()[1].startswith("quick,singleadv (seed 0),0.0225,")
