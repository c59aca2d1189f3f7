"""Verdicts on images whose fate is planted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from synthetic_runs import HASH, make_record, write

from ensemble_bench.errors import RecordError
from ensemble_bench.records import Blackbox, find_records, write_record
from ensemble_bench.reports.verdicts import notes_on_missing_verdicts, verdicts

Bools = NDArray[np.bool_]


def planted(root: Path, recipe: str, robust: Bools, **fields: Any) -> Path:
    """A record of `recipe` whose model withstands pgd20 on the images where `robust` holds."""
    record, samples = make_record([True] * len(robust), {"pgd20": list(map(bool, robust))}, recipe=recipe, **fields)
    return write(record, samples, root / record.run)


def only(n: int, *ranges: tuple[int, int]) -> Bools:
    """True in the given half-open ranges of n images."""
    robust = np.zeros(n, dtype=bool)
    for first, end in ranges:
        robust[first:end] = True
    return robust


@pytest.mark.parametrize(
    ("ensemble", "rival", "outcome"),
    [
        (only(100, (0, 60)), only(100, (0, 40)), "shown"),
        (only(100, (0, 41)), only(100, (0, 40)), "not shown"),
        (only(100, (0, 30)), only(100, (0, 40)), "opposite shown"),
        (only(100, (0, 40)), only(100, (0, 40)), "not shown"),
        (only(100, (0, 20), (40, 60)), only(100, (0, 40)), "not shown"),
    ],
)
def test_the_outcome_follows_the_discordant_images(tmp_path: Path, ensemble: Bools, rival: Bools, outcome: str) -> None:
    planted(tmp_path, "ensemble2adv", ensemble)
    planted(tmp_path, "doubleadv", rival)
    (verdict,) = verdicts(find_records(tmp_path))
    only_a, only_b = (ensemble & ~rival).sum(), (rival & ~ensemble).sum()
    assert (verdict.test.only_a, verdict.test.only_b, verdict.test.n) == (only_a, only_b, 100)
    if only_a + only_b:
        assert verdict.test.p_value == pytest.approx(binomtest(only_a, only_a + only_b).pvalue)
    assert verdict.difference == pytest.approx((ensemble.sum() - rival.sum()) / 100)
    assert verdict.outcome == outcome
    assert f": {outcome} (" in str(verdict)


def test_the_sentence(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", only(100, (0, 52)))
    planted(tmp_path, "separate2adv", only(100, (10, 45), (60, 63)), seeds=(0, 100))
    (verdict,) = verdicts(find_records(tmp_path))
    # 17 images only for the ensemble, 3 only for the rival: p = 2 · P(X ≤ 3), X ~ B(20, ½) = 2702/1048576
    assert str(verdict) == (
        "ensemble2adv (seed 0) is more robust than separate2adv (seed 0+100; networks trained apart, 1.00 × its "
        "parameters): shown (+14.0 points, p = 0.003)"
    )
    assert verdict.where == "digits, preset tiny, linf 8/255, suite paper, test split, n = 100"


def test_every_comparison_a_pair_of_seeds(tmp_path: Path) -> None:
    for recipe in ("ensemble2adv", "ensemble4adv", "singleadv", "doubleadv", "separate2adv", "quadadv", "separate4adv"):
        for seed in (0, 1):
            planted(tmp_path, recipe, only(10, (0, 5)), seeds=(seed, 9 + seed) if "separate" in recipe else (seed,))
    found = [(v.ensemble, v.rival, v.ensemble_seeds[0], v.rival_seeds[0]) for v in verdicts(find_records(tmp_path))]
    pairs = [("2", "singleadv"), ("2", "doubleadv"), ("2", "separate2adv"), ("4", "quadadv"), ("4", "separate4adv")]
    assert found == [(f"ensemble{k}adv", rival, seed, seed) for k, rival in pairs for seed in (0, 1)]
    assert notes_on_missing_verdicts(find_records(tmp_path)) == []


def test_seeds_that_do_not_fit_are_paired_in_their_order(tmp_path: Path) -> None:
    for seed in (0, 1):
        planted(tmp_path, "ensemble2adv", only(10, (0, 5)), seeds=(seed,))
        planted(tmp_path, "singleadv", only(10, (0, 5)), seeds=(seed + 7,))
    assert [(v.ensemble_seeds, v.rival_seeds) for v in verdicts(find_records(tmp_path))] == [((0,), (7,)), ((1,), (8,))]


@pytest.mark.parametrize(
    "fields",
    [
        {"data_hash": "sha256:other"},
        {"split": "validation"},
        {"suite": "paper500"},
        {"preset": "small"},
        {"blackbox": Blackbox(hash=HASH, keep_rate=0.5, surrogates=(), n=5)},
    ],
)
def test_other_images_or_attacks_are_not_compared(tmp_path: Path, fields: dict[str, Any]) -> None:
    planted(tmp_path, "ensemble2adv", only(10, (0, 5)))
    planted(tmp_path, "singleadv", only(10, (0, 4)), **fields)
    assert verdicts(find_records(tmp_path)) == []
    assert any("ensemble2adv against singleadv" in note for note in notes_on_missing_verdicts(find_records(tmp_path)))


def test_samples_that_contradict_their_record_are_refused(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", only(10, (0, 5)))
    directory = planted(tmp_path, "singleadv", only(10, (0, 4)))
    _, other = make_record([True] * 10, {"pgd20": [False] * 10})
    write(replace(find_records(directory)[0], model="x/best"), other, tmp_path / "singleadv-digits-tiny-s0")
    with pytest.raises(RecordError, match="4 of 10 images robust, its samples say 0 of 10"):
        verdicts(find_records(tmp_path))
    (directory / "samples.parquet").unlink()
    with pytest.raises(RecordError, match="cannot read the samples"):
        verdicts(find_records(tmp_path))


def test_other_image_ids_are_refused(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", only(10, (0, 5)))
    record, samples = make_record([True] * 10, {"pgd20": [True] * 4 + [False] * 6})
    write(record, samples.assign(id=samples["id"] + 1), tmp_path / record.run)
    with pytest.raises(RecordError, match="are not the images of"):
        verdicts(find_records(tmp_path))


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", only(50, (0, 25)))
    record, samples = make_record([True] * 50, {"pgd20": [True] * 20 + [False] * 30})
    write(record, samples.iloc[::-1], tmp_path / record.run)
    (verdict,) = verdicts(find_records(tmp_path))
    assert (verdict.test.only_a, verdict.test.only_b) == (5, 0)


def test_runs_of_the_same_seed_keep_their_names(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", only(10, (0, 5)))
    planted(tmp_path, "doubleadv", only(10, (0, 4)))
    planted(tmp_path, "doubleadv", only(10, (0, 3)), model="doubleadv-paper-s0/best")
    names = {"doubleadv, run doubleadv-digits-tiny", "doubleadv, run doubleadv-paper"}
    assert {v.rival for v in verdicts(find_records(tmp_path))} == names


def test_a_record_from_nowhere_has_no_samples(tmp_path: Path) -> None:
    records = [make_record([True], {"pgd20": [True]}, recipe=recipe)[0] for recipe in ("ensemble2adv", "singleadv")]
    with pytest.raises(RecordError, match="not read from a file"):
        verdicts(records)
    assert write_record(records[0], tmp_path).exists()


def test_parts_of_models_are_not_compared(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", only(10, (0, 5)))
    planted(tmp_path, "singleadv", only(10, (0, 4)), view="member1")
    assert verdicts(find_records(tmp_path)) == []


def test_images_carried_over_from_a_smaller_eps_are_part_of_the_attack(tmp_path: Path) -> None:
    def carried(recipe: str, eps: float, robust: int) -> None:
        attacks = {"smaller-eps": [True] * 8 + [False] * 2, "pgd20": [True] * robust + [False] * (10 - robust)}
        record, samples = make_record([True] * 10, attacks, recipe=recipe)
        first = replace(record.attacks[0], settings={"eps": eps})
        write(replace(record, attacks=(first, record.attacks[1])), samples, tmp_path / record.run)

    carried("ensemble2adv", 4 / 255, 6)
    carried("singleadv", 4 / 255, 5)
    carried("doubleadv", 2 / 255, 5)
    planted(tmp_path, "separate2adv", only(10, (0, 4)), seeds=(0, 1))
    (verdict,) = verdicts(find_records(tmp_path))
    assert (verdict.rival, verdict.test.only_a) == ("singleadv", 1)
    assert verdict.where == "digits, preset tiny, linf 8/255, after linf 4/255, suite paper, test split, n = 10"
    (note,) = notes_on_missing_verdicts(find_records(tmp_path))
    assert "ensemble2adv against doubleadv, ensemble2adv against separate2adv" in note
    assert "after linf 4/255" in note
