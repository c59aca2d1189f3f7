"""The leaderboard is a pure rendering: sorted, complete, rounded only there."""

import csv
import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import WARNING, build_runs, build_sweep, make_record, path_of, write

from ensemble_bench.errors import RecordError
from ensemble_bench.leaderboard import leaderboard_csv, write_leaderboard
from ensemble_bench.records import find_records
from ensemble_bench.records.text import fraction, natural


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recipes, both suites, best and last checkpoints."""
    return build_runs(tmp_path_factory.mktemp("runs"), ("baseline", "singleadv", "ensemble2adv"), n=60)


def test_rows_stand_in_groups_the_most_robust_first(runs: Path) -> None:
    rows = rows_of(write_leaderboard(runs).read_text())
    assert len(rows) == len(find_records(runs)) == 9
    assert [row["suite"] for row in rows] == ["paper"] * 6 + ["paper500"] * 3
    for suite in ("paper", "paper500"):
        scores = [float(row["robust_accuracy"]) for row in rows if row["suite"] == suite]
        assert scores == sorted(scores, reverse=True)
    assert list(rows[0])[:5] == ["data_name", "threat", "suite", "split", "n"]


def test_ties_go_by_clean_accuracy_then_by_name() -> None:
    plain = {"pgd5": [True, False, False]}
    tied = [
        make_record([True, bool(clean), False], plain, recipe=name)[0] for name, clean in (("b", 0), ("a", 0), ("c", 1))
    ]
    assert [row["recipe"] for row in rows_of(leaderboard_csv(tied))] == ["c", "a", "b"]


def test_a_row_says_what_its_record_says(runs: Path) -> None:
    rows = {row["record"]: row for row in rows_of(write_leaderboard(runs).read_text())}
    for record in find_records(runs):
        row = rows[path_of(record).relative_to(runs).as_posix()]
        assert row["model"] == record.model
        assert float(row["robust_accuracy"]) == pytest.approx(record.robust.accuracy, abs=5e-5)
        assert float(row["robust_ci_low"]) == pytest.approx(record.robust.ci_low, abs=5e-5)
        assert float(row["clean_ci_high"]) == pytest.approx(record.clean.ci_high, abs=5e-5)
        assert (row["norm"], row["eps"], row["threat"]) == ("linf", "8/255", "linf 8/255")
        assert int(row["parameters"]) == record.parameters
        attacks = {attack.name: attack.accuracy for attack in record.attacks}
        for name in ("ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox", "ifgsm500", "pgd500"):
            assert row[name] == (f"{attacks[name]:.4f}" if name in attacks else "")
        blackbox = record.attack("blackbox")
        assert row["blackbox_n"] == ("" if blackbox is None else str(blackbox.n))
        assert "pgd20_n" not in row  # it covers all n images


def test_attacks_are_ordered_by_family_and_steps() -> None:
    names = ["pgd500", "blackbox", "pgd5", "ifgsm7", "apgd-dlr100", "pgd20", "apgd100"]
    ordered = ["apgd100", "apgd-dlr100", "blackbox", "ifgsm7", "pgd5", "pgd20", "pgd500"]
    assert sorted(names, key=natural) == ordered
    assert [fraction(1 / 3), fraction(1), fraction(None)] == ["0.3333", "1.0000", ""]


def test_it_does_not_depend_on_the_order_of_records(runs: Path) -> None:
    records = find_records(runs)
    text = leaderboard_csv(records, root=runs)
    random.Random(0).shuffle(records)
    assert leaderboard_csv(records, root=runs) == text
    assert write_leaderboard(runs).read_text() == text


def test_warnings_seeds_and_unknowns(tmp_path: Path) -> None:
    record, samples = make_record(
        [True, False],
        {"blackbox": [None, None]},
        recipe=None,
        preset=None,
        flops=None,
        seeds=(0, 100),
        model="foreign",
        checkpoint=None,
    )
    record = replace(record, warnings=(WARNING, replace(WARNING, name="zero-gradient")))
    write(record, samples, tmp_path / "run")
    path = write_leaderboard(tmp_path, tmp_path / "elsewhere" / "board.csv")
    (row,) = rows_of(path.read_text())
    assert row["warnings"] == f"{WARNING.name} ({WARNING.message}); zero-gradient ({WARNING.message})"
    assert row["seeds"] == "0 100"
    assert (row["recipe"], row["preset"], row["checkpoint"], row["flops"], row["blackbox"]) == ("", "", "", "", "")


def test_without_records_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="ensemble-bench evaluate"):
        write_leaderboard(tmp_path)


def test_parts_of_models_are_left_out(runs: Path, tmp_path: Path) -> None:
    records = find_records(runs)
    parts = [replace(r, view="logit", model=f"{r.model}#logit", robust=r.clean) for r in records]  # type: ignore[arg-type]
    assert leaderboard_csv([*records, *parts], root=runs) == leaderboard_csv(records, root=runs)
    record, samples = make_record([True], {"margin-doubled80": [True]}, view="member1")
    write(record, samples, tmp_path)
    with pytest.raises(RecordError, match="no records"):
        write_leaderboard(tmp_path)


def test_images_that_fell_at_a_smaller_eps_are_no_attack(tmp_path: Path) -> None:
    build_sweep(tmp_path, ("singleadv",), levels=(2, 4, 16), n=30)
    rows = rows_of(write_leaderboard(tmp_path).read_text())
    assert "smaller-eps" not in rows[0]
    carried = [(row["eps"], row["carried_eps"]) for row in rows]
    assert carried == [("2/255", ""), ("4/255", "2/255"), ("16/255", "4/255")]
    alone = rows_of(leaderboard_csv([r for r in find_records(tmp_path) if r.threat.eps_text == "2/255"]))
    assert "carried_eps" not in alone[0]
