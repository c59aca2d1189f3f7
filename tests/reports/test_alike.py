"""Rows against a folder that mixes what no mean may: objectives, lengths, attacks, doubled seeds, two evaluations."""

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from mixed_runs import CHANGED, MEAN, ROBUST, SD, N, build_mixed
from synthetic_runs import build_appendix, make_record

from ensemble_bench.records import Record, described, find_records
from ensemble_bench.records.table import Mean, Table, Value
from ensemble_bench.reports import Report, write_report
from ensemble_bench.reports.alike import changes_text, rows_of
from ensemble_bench.reports.figures.figure2 import attack_panels, training_panels
from ensemble_bench.reports.figures.figure3 import doubling_panels
from ensemble_bench.reports.groups import Scored, headline_models, scored_models
from ensemble_bench.reports.tables.table1 import suite_tables, table_1b, table_1c
from ensemble_bench.reports.tables.table2 import table_2
from ensemble_bench.reports.training_curves import read_curves

LABELS = ["ensemble2adv", *sorted((label for _, label in CHANGED.values()), key=lambda text: (text.count(","), text))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed folder."""
    return build_mixed(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Its report."""
    return write_report(runs, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def records(runs: Path) -> list[Record]:
    """Its records, as a report reads them."""
    return [described(record) for record in find_records(runs)]


def means_of(table: Table) -> dict[Any, dict[str, Any]]:
    """Rows of means by label."""
    return {row[0]: dict(zip(table.keys, row, strict=True)) for row in table.rows if str(row[1]).startswith("mean")}


@pytest.mark.parametrize(
    ("name", "key", "n"), [("table1b", "worst_case", 1), ("suites", "worst_case", 3), ("credits", "worst_case", 2)]
)
def test_only_seeds_of_one_training_are_averaged_each_once(report: Report, name: str, key: str, n: int) -> None:
    tables = [table for table in report.tables if table.name == name]
    assert len(tables) == n
    for table in tables:
        (row,) = means_of(table).values()
        assert (row["model"], row["seeds"]) == ("ensemble2adv", "mean of 0, 1, 2")
        assert (row[key].accuracy, row[key].sd) == pytest.approx((MEAN, SD))
        assert str(row[key]) == "87.0 ± 1.7"
        own = [text for text in dict.fromkeys(str(row[0]) for row in table.rows) if "again" not in text]
        assert own == LABELS


def test_curves_are_averaged_as_records_are(report: Report, runs: Path) -> None:
    other, table = [table for table in report.tables if table.name == "table1a"]
    assert [row[0] for row in other.rows] == [CHANGED[6][1]]  # points of its curve are under another eps
    assert means_of(other) == {}
    (row,) = means_of(table).values()
    assert (row["model"], row["seeds"]) == ("ensemble2adv", "mean of 0, 1, 2")
    assert (row["pgd20"].accuracy, row["pgd20"].sd) == pytest.approx((MEAN, SD))
    _, panel = training_panels(read_curves(runs), "pgd20")
    assert [line.label for line in panel.lines] == [label for label in LABELS if label != CHANGED[6][1]]
    assert panel.lines[0].y == pytest.approx([MEAN] * 40)
    assert len({line.look for line in panel.lines}) == len(panel.lines)  # no two lines look the same
    assert "n = 144" in panel.setting
    (panel,) = attack_panels(described(record) for record in find_records(runs))
    assert panel.lines[0].y == pytest.approx([1.0, MEAN])
    assert [line.label for line in panel.lines] == LABELS


def test_rows_of_doubled_seeds_stay_and_are_named_in_a_note(report: Report, runs: Path) -> None:
    (table,) = [table for table in report.tables if table.name == "table1b"]
    again = {str(row[0]): row[-1] for row in table.rows if "again" in str(row[0])}
    assert [value.accuracy for value in again.values() if isinstance(value, Value)] == [0.99, 0.87]
    first, second = again
    assert first.startswith("ensemble2adv (again: copy/ensemble2adv-digits-tiny-s1, record 0")
    assert second.endswith("/ensemble2adv-digits-tiny-s2, record f" + second[-8:])
    name, suites = "ensemble2adv-digits-tiny", "suite paper, suite quick, suite quick+mora50, suite strongest"
    assert [note for note in report.notes if note.startswith(("ensemble2adv, seed", "Evaluated"))] == [
        f"ensemble2adv, seed 1: {name}-s1 stands, not counted again: copy/{name}-s1 (curves).",
        f"ensemble2adv, seed 1: {runs.name}/{name}-s1 stands, not counted again: copy/{name}-s1 ({suites}).",
        f"Evaluated several times ({suites}): {runs.name}/{name}-s2.",
    ]
    assert sum("of several evaluations of one model the lowest worst case" in note for note in report.notes) == 1


def test_the_mean_does_not_depend_on_the_order_of_records(records: list[Record]) -> None:
    assert table_1b(reversed(records)) == table_1b(records)
    assert suite_tables(reversed(records)) == suite_tables(records)


def test_a_suite_of_one_training_alone_loses_no_row(records: list[Record]) -> None:
    """Every evaluation stands in one row, however much it differs."""
    for suite in ("paper", "quick"):
        scored = scored_models(records, suite)
        rows = rows_of(scored)
        assert sum(len(row.runs) + len(row.again) for row in rows) == len(scored)


def test_every_suite_has_its_table(records: list[Record]) -> None:
    crosscheck, _ = make_record(
        [True, True], {"bim20@art": [True, False], "bim20@ours": [True, True]}, suite="crosscheck"
    )
    tables = suite_tables([*records, crosscheck])
    assert [table.title for table in tables] == [
        "Suite quick",
        "Suite strongest",
        "Suite crosscheck",
        "Suite quick+mora50",
    ]
    # In a cascade no attack but the worst case is of all images.
    assert tables[0].keys == tables[1].keys == ("model", "seeds", "clean", "worst_case")
    assert tables[2].keys == ("model", "seeds", "clean", "bim20@art", "bim20@ours", "worst_case")
    assert [table.about["suite"] for table in tables] == ["quick", "strongest", "crosscheck", "quick+mora50"]
    assert f"test split, n = {N}" in tables[0].caption


def test_counts_of_credits_are_averaged(report: Report) -> None:
    (table,) = [t for t in report.tables if t.name == "credits" and t.about["suite"] == "strongest"]
    (row,) = means_of(table).values()
    broken = [99 - robust for robust in ROBUST.values()]
    assert row["mora100"] == Mean(mean=pytest.approx(mean(broken)), sd=pytest.approx(stdev(broken)))


def test_changes_are_named_in_plain_words() -> None:
    changes = {
        "steps": 200,
        "crop": None,
        "flip": False,
        "average": True,
        "objective": "adp",
        "network": {"width": 0.5},
    }
    named = ["objective adp", "average", "no crop", "no flip", "network width 0.5", "200 steps"]
    assert changes_text(changes) == named
    assert changes_text({"match": "flops", "eps": 4 / 255, "batch_size": 64}) == [
        "eps 4/255",
        "match flops",
        "batch size 64",
    ]
    assert changes_text({}) == []


def test_settings_that_came_with_another_version_are_named_where_they_tell_rows_apart() -> None:
    """The preset itself was changed: nothing was asked for, and yet the two are not alike."""
    old, new = (
        {"changes": {}, "steps": 400, "objective": "ensemble", "match": None, "eps": 8 / 255, "settings": settings}
        for settings in ({"learning_rate": 0.2}, {"learning_rate": 0.1, "average": 0.99})
    )
    made = [
        make_record([True], {"pgd20": [True]}, seeds=(seed,), training=training)[0]
        for seed, training in enumerate((old, new, None))
    ]
    assert [row.label for row in rows_of(Scored(record=record) for record in made[:2])] == [
        "singleadv, learning rate 0.1, average 0.99",
        "singleadv, learning rate 0.2, no average",
    ]
    assert [row.label for row in rows_of(Scored(record=record) for record in made[1:])][1] == (
        "singleadv, training not recorded"
    )


def test_trainings_of_other_lengths_are_not_seeds_of_one_row() -> None:
    """Their settings hold the steps of the preset, which they share."""
    made = [
        make_record(
            [True],
            {"pgd20": [True]},
            seeds=(seed,),
            training={"changes": {"steps": steps}, "steps": steps, "settings": {"steps": 400}},
        )[0]
        for seed, steps in enumerate((10, 10, 80))
    ]
    rows = rows_of(Scored(record=record) for record in made)
    assert [(row.label, len(row.runs)) for row in rows] == [("singleadv, 10 steps", 2), ("singleadv, 80 steps", 1)]


def test_attacks_of_other_settings_are_not_averaged() -> None:
    one, _ = make_record([True, True], {"pgd20": [True, False]}, seeds=(0,))
    two, _ = make_record([True, True], {"pgd20": [True, True]}, seeds=(1,))
    other = replace(two, attacks=(replace(two.attacks[0], settings={"steps": 7}),))
    assert len(rows_of([Scored(record=one), Scored(record=two)])) == 1
    assert [row.label for row in rows_of([Scored(record=one), Scored(record=other)])] == [
        "singleadv, pgd20 steps 5",
        "singleadv, pgd20 steps 7",
    ]


def test_an_unfinished_run_is_no_seed_of_finished_ones(tmp_path: Path) -> None:
    build_mixed(tmp_path)
    curves = read_curves(tmp_path)
    late = [replace(curve, finished=curve.seeds != (2,)) for curve in curves]
    rows = {row.label: row for row in rows_of(late)}
    assert [run.seeds for run in rows["ensemble2adv, trained to the end"].runs] == [(0,), (1,)]
    assert [run.seeds for run in rows["ensemble2adv, trained in part"].runs] == [(2,)]


def weights(checkpoint: str, robust: int, suite: str = "paper", seed: int = 0) -> Record:
    """A record of one checkpoint of a run."""
    attacks = {"pgd20": [True] * robust + [False] * (10 - robust)}
    model = f"singleadv-digits-tiny-s{seed}/{checkpoint}"
    return make_record([True] * 10, attacks, checkpoint=checkpoint, suite=suite, seeds=(seed,), model=model)[0]


def test_the_average_of_the_weights_comes_before_the_best_and_the_last() -> None:
    last, best, averaged = weights("last", 3), weights("best", 4), weights("averaged", 5)
    for given, expected in (([last], last), ([last, best], best), ([averaged, last, best], averaged)):
        assert headline_models(given) == [expected]
    (table,) = table_1b([last])
    assert [row[0] for row in table.rows] == ["singleadv"]
    assert table.title == "Table 1b: at the end of training"
    assert "Weights: the weights after the last step." in table.caption
    (table,) = table_1b([last, best])
    assert (table.title, len(table.rows)) == ("Table 1b: at the best ifgsm5 point", 1)


def test_tables_show_the_last_weights_beside_averaged_ones() -> None:
    made = [weights(name, robust, seed=seed) for name, robust in (("averaged", 5), ("last", 3)) for seed in (0, 1)]
    (table,) = table_1b(made)
    labels = ["singleadv", "singleadv (last weights)"]
    assert [row[:2] for row in table.rows] == [(label, of) for label in labels for of in ("mean of 0, 1", "0", "1")]
    means = means_of(table)
    assert [means[label]["worst_case"].accuracy for label in labels] == [0.5, 0.3]
    assert "Weights: the running average of the weights." in table.caption
    (table,) = table_1c([replace(record, suite="paper500") for record in made])
    assert list(means_of(table)) == labels


def test_where_a_suite_has_not_met_the_headline_the_next_weights_stand_and_are_named() -> None:
    """No record is left out because a better checkpoint has records of another suite."""
    made = [weights("averaged", 5), weights("best", 4, "quick"), weights("last", 3, "quick")]
    (table,) = suite_tables(made)
    assert [row[0] for row in table.rows] == ["singleadv (best weights)"]
    assert headline_models(made) == made[:1]


def test_one_column_is_of_one_number_of_images() -> None:
    """Sets of other sizes make tables of their own, and an attack without images gets a dash."""
    made = []
    for seed, kept in enumerate((4, 4, 6, 0)):
        images = [index < 2 if index < kept else None for index in range(10)]
        made.append(make_record([True] * 10, {"pgd20": [True] * 10, "blackbox": images}, seeds=(seed,))[0])
    none, four, six = table_1b(made)
    assert means_of(four)["singleadv"]["blackbox"] == Value(accuracy=0.5, sd=0.0)
    assert "on the 4 of these images" in four.caption
    assert [table.about["blackbox_n"] for table in (none, four, six)] == ["0", "4", "6"]
    assert none.rows[0][none.keys.index("blackbox")] is None
    assert "none of these images" in none.caption


def test_table_2_and_figure_3_average_seeds(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        build_appendix(tmp_path, "ensemble2adv", members=2, seed=seed)
        build_appendix(tmp_path, "singleadv", seed=seed)
    records = find_records(tmp_path)
    averaged, *each, singles = table_2(records)
    assert averaged.about["seeds"] == "mean of 0, 1, 2"
    assert len(each) == 3
    for index, row in enumerate(averaged.rows):
        values = [table.rows[index][2] for table in each]
        own = [value.accuracy for value in values if isinstance(value, Value)]
        assert row[2] == Value(accuracy=pytest.approx(mean(own)), sd=pytest.approx(stdev(own)))
    assert [row[:2] for row in singles.rows] == [("singleadv", of) for of in ("mean of 0, 1, 2", "0", "1", "2")]
    parts, attacks = doubling_panels(records)
    assert "ensemble2adv, seeds 0, 1, 2" in parts.setting
    for line, row in zip(parts.lines, averaged.rows, strict=True):
        assert line.label == row[0]
        assert line.band is not None
    whole = attacks.lines[0]
    ends = [float(r.attacks[0].robust) / r.n for r in records if r.recipe == "ensemble2adv" and r.view is None]
    assert whole.band is not None
    assert whole.y[-1] == pytest.approx(mean(ends))
    assert whole.band[1][-1] - whole.y[-1] == pytest.approx(stdev(ends))


def test_figure_2c_draws_a_model_once_whatever_suites_hold_the_attack(records: list[Record]) -> None:
    added = [
        replace(record, id="a" + record.id[1:], suite="pgd20", attacks=record.attacks[1:])
        for record in records
        if record.suite == "paper"
    ]
    assert [(line.label, line.y.tolist()) for line in attack_panels([*records, *added])[0].lines] == [
        (line.label, line.y.tolist()) for line in attack_panels(records)[0].lines
    ]


def test_joined_runs_that_share_a_network_do_not_count_as_two() -> None:
    made = [
        make_record(
            [True] * 10, {"pgd20": [True] * robust + [False] * (10 - robust)}, recipe="separate2adv", seeds=seeds
        )[0]
        for seeds, robust in (((0, 1), 4), ((1, 2), 9), ((2, 3), 6))
    ]
    (row,) = rows_of(Scored(record=record) for record in made)
    assert [run.seeds for run in row.runs] == [(0, 1), (2, 3)]
    (table,) = table_1b(made)
    assert means_of(table)["separate2adv"]["worst_case"].accuracy == 0.5
    assert table.rows[0][1] == "mean of 0+1, 2+3"
