"""Table 1 against the curves and records that it is made of."""

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from synthetic_runs import build_runs, make_record, result_of

from ensemble_bench.errors import RecordError
from ensemble_bench.records import Record, Threat, find_records
from ensemble_bench.records.table import Table
from ensemble_bench.reports.tables.table1 import table_1a, table_1b, table_1c
from ensemble_bench.reports.training_curves import as_paper, last_mean, read_curves

RECIPES = ("ensemble2adv", "separate2adv", "baseline", "singleadv")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recipes in no order, two seeds each."""
    return build_runs(tmp_path_factory.mktemp("runs"), RECIPES, seeds=(0, 1), n=90, points=15)


def rows_of(table: Table) -> dict[Any, Any]:
    """Rows as dicts by (model, seeds)."""
    return {(row[0], row[1]): dict(zip(table.keys, row, strict=True)) for row in table.rows}


def test_1a_averages_the_last_ten_points(runs: Path) -> None:
    curves, records = read_curves(runs), find_records(runs)
    (table,) = table_1a(curves, records)
    rows = rows_of(table)
    models = list(dict.fromkeys(model for model, _ in rows))
    assert models == ["baseline", "singleadv", "ensemble2adv"]  # the joined model has no training curve
    assert [seeds for model, seeds in rows if model == "singleadv"] == ["mean of 0, 1", "0", "1"]
    for curve in curves:
        row = rows[curve.recipe, str(curve.seeds[0])]
        assert row["pgd20"].accuracy == pytest.approx(mean(curve.accuracy["pgd20"][-10:]))
    values = [last_mean(c, "ifgsm5") for c in curves if c.recipe == "singleadv"]
    average = rows["singleadv", "mean of 0, 1"]["ifgsm5"]
    assert (average.accuracy, average.sd) == pytest.approx((mean(values), stdev(values)))
    assert "digits, preset tiny, linf 8/255, validation split, n = 144, seeds 0, 1." in table.caption


def test_1a_takes_the_black_box_from_the_last_checkpoint(runs: Path) -> None:
    curves, records = read_curves(runs), find_records(runs)
    (table,) = table_1a(curves, records)
    (last,) = [r for r in records if r.checkpoint == "last" and r.recipe == "singleadv" and r.seeds == (1,)]
    assert rows_of(table)["singleadv", "1"]["blackbox"].accuracy == result_of(last, "blackbox").accuracy
    assert "last checkpoint" in table.caption
    (table,) = table_1a(curves, [r for r in records if r.checkpoint == "best"])
    assert "blackbox" not in table.keys
    (table,) = table_1a(curves, [last])
    assert rows_of(table)["singleadv", "mean of 0, 1"]["blackbox"] is None  # seed 0 has none


def test_1a_takes_a_best_checkpoint_of_the_last_step_for_the_last(runs: Path) -> None:
    """Of two checkpoints of equal weights `evaluate` scores only the best."""
    curves = [curve for curve in read_curves(runs) if curve.recipe == "singleadv" and curve.seeds == (1,)]
    (best,) = [
        r
        for r in find_records(runs)
        if (r.recipe, r.seeds, r.checkpoint, r.suite) == ("singleadv", (1,), "best", "paper")
    ]
    at_the_end = replace(best, step=int(curves[0].step[-1]))
    (table,) = table_1a(curves, [at_the_end])
    assert rows_of(table)["singleadv", "1"]["blackbox"].accuracy == result_of(best, "blackbox").accuracy
    (table,) = table_1a([replace(curves[0], finished=False)], [at_the_end])
    assert "blackbox" not in table.keys


def test_1a_as_in_the_paper_has_a_row_a_recipe(runs: Path) -> None:
    curves = read_curves(runs)
    (table,) = table_1a(curves, [], paper=True)
    rows = rows_of(table)
    assert list(rows) == [("baseline", "0, 1"), ("singleadv", "0, 1"), ("ensemble2adv", "0, 1")]
    merged = as_paper([curve for curve in curves if curve.recipe == "baseline"])
    assert rows["baseline", "0, 1"]["clean"].accuracy == merged.accuracy["clean"][-10:].mean()
    assert "rolling median of 50" in table.caption


def test_1b_shows_the_best_checkpoints(runs: Path) -> None:
    records = find_records(runs)
    (table,) = table_1b(records)
    rows = rows_of(table)
    models = list(dict.fromkeys(model for model, _ in rows))
    assert models == ["baseline", "singleadv", "ensemble2adv", "separate2adv"]
    assert ("separate2adv", "1+101") in rows
    assert table.columns[2:] == ("clean", "ifgsm5", "ifgsm7", "pgd5", "pgd20", "black box", "worst case [95 %]")
    for record in records:
        if record.checkpoint == "best" and record.suite == "paper" and record.recipe == "ensemble2adv":
            row = rows["ensemble2adv", str(record.seeds[0])]
            assert row["worst_case"].accuracy == record.robust.accuracy
            assert (row["worst_case"].ci_low, row["worst_case"].ci_high) == (
                record.robust.ci_low,
                record.robust.ci_high,
            )
            assert row["pgd5"].accuracy == result_of(record, "pgd5").accuracy
    assert "test split, n = 90, seeds 0, 1, 0+100, 1+101." in table.caption
    assert "on the 30 of these images" in table.caption


def test_1c_shows_500_steps(runs: Path) -> None:
    (table,) = table_1c(find_records(runs))
    assert table.keys[2:] == ("clean", "ifgsm500", "pgd500", "worst_case")
    assert "Black box" not in table.caption
    assert len(table.rows) == 4 * 3


def test_groups_make_tables_of_their_own() -> None:
    def scored(n: int, **fields: Any) -> Record:
        return make_record([True] * n, {"pgd5": [True] * n}, **fields)[0]

    records = [
        scored(4),
        scored(5),
        scored(4, preset="small"),
        scored(4, data_name="cifar10-jpeg"),
        scored(4, threat=Threat(norm="l2", eps=0.5)),
        scored(4, split="validation"),
    ]
    tables = table_1b(records)
    assert len(tables) == 6
    assert len({table.caption for table in tables}) == 6
    assert all(len(table.rows) == 1 for table in tables)
    assert rows_of(tables[0])["singleadv", "0"]["blackbox"] is None


def test_runs_of_which_nothing_but_the_name_is_known_stand_apart() -> None:
    first = make_record([True, True], {"pgd5": [True, False]})[0]
    wide = make_record([True, True], {"pgd5": [True, True]}, model="singleadv-wide-s0/best")[0]
    (table,) = table_1b([first, wide])
    names = ["singleadv, run singleadv-digits-tiny", "singleadv, run singleadv-wide"]
    assert [row[0] for row in table.rows] == names
    again = replace(first, id="f" * 64)
    (table,) = table_1b([first, again, wide])
    further = max(first.id, again.id)[:8]
    (label,) = {row[0] for row in table.rows} - set(names)
    assert label == f"{names[0]} (again: singleadv-digits-tiny-s0, record {further})"


def test_a_model_without_a_recipe_stands_for_itself_below_the_known_ones() -> None:
    foreign = make_record([True], {"pgd5": [True]}, recipe=None, model="mine/best")[0]
    gated = make_record([True], {"pgd5": [True]}, recipe="gated2adv")[0]
    (table,) = table_1b([foreign, gated])
    assert [row[0] for row in table.rows] == ["gated2adv", "mine/best"]


def test_parts_of_models_are_left_out(runs: Path) -> None:
    records = find_records(runs)
    parts = [replace(record, model=f"{record.model}#member1", view="member1") for record in records]
    curves = read_curves(runs)
    assert table_1b([*records, *parts]) == table_1b(records)
    assert table_1c(parts) == []
    assert table_1a(curves, [*records, *parts]) == table_1a(curves, records)


def test_records_that_carry_images_over_make_tables_of_their_own() -> None:
    attacks = {"smaller-eps": [True, True, False], "pgd5": [True, False, False]}
    made = make_record([True] * 3, attacks)[0]
    carried = replace(made, attacks=(replace(made.attacks[0], settings={"eps": 4 / 255}), made.attacks[1]))
    whole = make_record([True] * 3, {"pgd5": [True, False, True]}, recipe="doubleadv")[0]
    first, second = table_1b([carried, whole])
    assert [row[0] for row in first.rows] == ["doubleadv"]
    assert [row[0] for row in second.rows] == ["singleadv"]
    assert "Images that fell at linf 4/255 count as fallen under every attack." in second.caption
    assert second.about["carried_eps"] == "4/255"
    assert "carried_eps" not in first.about
    assert table_1a([], [replace(carried, checkpoint="last")]) == []
    wrong = replace(carried, attacks=(replace(carried.attacks[0], settings={"eps": 0.5}), made.attacks[1]))
    with pytest.raises(RecordError, match=r"attacks\.smaller-eps\.settings\.eps: .* got 0\.5"):
        table_1b([wrong])


def test_data_of_one_name_and_other_content_are_not_averaged() -> None:
    made = []
    for seed, (content, robust) in enumerate((("aa", 4), ("bb", 8))):
        about: dict[str, Any] = {"seeds": (seed,), "data_hash": f"sha256:{content * 32}", "data_name": "mine"}
        made.append(make_record([True] * 10, {"pgd20": [True] * robust + [False] * (10 - robust)}, **about)[0])
    tables = table_1b(made)
    assert [(table.about["data_name"], [row[1] for row in table.rows]) for table in tables] == [
        ("mine (aaaaaaaa)", ["0"]),
        ("mine (bbbbbbbb)", ["1"]),
    ]
    assert [table.caption.partition(",")[0] for table in tables] == ["mine (aaaaaaaa)", "mine (bbbbbbbb)"]
    assert table_1b(made[:1])[0].about["data_name"] == "mine"


def test_curves_on_data_of_other_content_are_not_averaged(runs: Path) -> None:
    curves = [replace(curve, data_hash=f"sha256:{curve.seeds[0]}") for curve in read_curves(runs)]
    (table,) = table_1a(curves, [])
    assert [row[0] for row in table.rows if row[0].startswith("singleadv")] == [
        "singleadv, data 0",
        "singleadv, data 1",
    ]


def test_captions_say_what_stands_behind_the_sign(runs: Path) -> None:
    """In means it is a spread over seeds, under a heading that names intervals."""
    curves, records = read_curves(runs), find_records(runs)
    one = [record for record in records if record.seeds[0] == 0]
    for tables, single in (
        (table_1a(curves, records), table_1a(curves[:1], records)),
        (table_1b(records), table_1b(one)),
        (table_1c(records), table_1c(one)),
    ):
        assert all("Mean ± sd over seeds." in table.caption for table in tables)
        assert all("over seeds" not in table.caption for table in single)
    assert "±" not in table_1a(curves, records, paper=True)[0].caption
