"""Credits against the images: what broke each of them first."""

from pathlib import Path
from statistics import mean, stdev

import pytest
from synthetic_runs import build_appendix, build_runs, build_sweep, make_record, path_of

from ensemble_bench.records import Record, find_records, read_samples
from ensemble_bench.records.table import Mean, Table, Value, to_csv
from ensemble_bench.reports.tables.credits import credit_tables, is_cascade, passes

ATTACKS = ("pgd20", "apgd100", "mora100")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Two recipes of two seeds at two eps, under a cascade."""
    root = tmp_path_factory.mktemp("runs")
    return find_records(build_sweep(root, ("ensemble2adv", "singleadv"), levels=(4, 8), seeds=(0, 1), n=60))


def rows_of(table: Table) -> list[dict[str, object]]:
    return [dict(zip(table.keys, row, strict=True)) for row in table.rows]


def test_credits_are_the_images_that_fell_to_it_first(records: list[Record]) -> None:
    first, second = credit_tables(records)
    assert first.keys == ("model", "seeds", "clean", *ATTACKS, "worst_case", "passes")
    assert second.keys == ("model", "seeds", "clean", "smaller-eps", *ATTACKS, "worst_case", "passes")
    assert second.columns[3] == "fell at a smaller eps"
    for table, eps in ((first, "4/255"), (second, "8/255")):
        assert [(row[0], row[1]) for row in table.rows] == [
            (recipe, seed) for recipe in ("singleadv", "ensemble2adv") for seed in ("mean of 0, 1", "0", "1")
        ]
        for row in rows_of(table):
            if row["seeds"] == "mean of 0, 1":
                continue
            (record,) = [
                r
                for r in records
                if (r.recipe, r.threat.eps_text, str(r.seeds[0])) == (row["model"], eps, row["seeds"])
            ]
            broken_by = read_samples(path_of(record).parent)["broken_by"]
            names = [key for key in table.keys if key not in ("model", "seeds", "clean", "worst_case", "passes")]
            assert {name: row[name] for name in names} == {name: int((broken_by == name).sum()) for name in names}
            clean, worst = row["clean"], row["worst_case"]
            assert isinstance(clean, Value)
            assert isinstance(worst, Value)
            assert clean.accuracy * 60 - sum(row[name] for name in names) == pytest.approx(worst.accuracy * 60)  # type: ignore[misc]
            assert row["passes"] == 100 * len(names)


def test_counts_of_several_seeds_have_a_mean(records: list[Record]) -> None:
    (table,) = credit_tables(record for record in records if record.threat.eps_text == "4/255")
    mean_row, *seeds = [row for row in rows_of(table) if row["model"] == "ensemble2adv"]
    for name in (*ATTACKS, "passes"):
        counts = [float(str(row[name])) for row in seeds]
        assert mean_row[name] == Mean(mean=pytest.approx(mean(counts)), sd=pytest.approx(stdev(counts)))
    worst = [row["worst_case"].accuracy for row in seeds if isinstance(row["worst_case"], Value)]
    assert mean_row["worst_case"] == Value(accuracy=pytest.approx(mean(worst)), sd=pytest.approx(stdev(worst)))
    first = to_csv([table]).splitlines()[1].split(",")
    assert first[6:8] == ["singleadv", '"mean of 0']
    assert str(Mean(mean=34.25, sd=2.5)) == "34.2 ± 2.5"
    assert str(Mean(mean=34.25)) == "34.2"
    assert str(Mean(mean=1326937.5, sd=13278.8)) == "1,326,938 ± 13,279"


def test_the_caption_says_what_was_carried_over(records: list[Record]) -> None:
    first, second = credit_tables(records)
    assert "suite strongest" in first.title
    assert "fell at" not in first.caption
    assert "Images that fell at linf 4/255 count as fallen under every attack." in second.caption
    lines = to_csv([first, second]).splitlines()
    assert lines[0].startswith(
        "data_name,preset,threat,suite,split,n,carried_eps,model,seeds,clean,clean_sd,pgd20,pgd20_sd,apgd100,"
    )
    assert len(lines) == 1 + 2 * 2 * 3  # two tables of two recipes: the mean and two seeds


def test_attacks_that_a_model_has_not_met_are_left_blank(records: list[Record]) -> None:
    own = [record for record in records if record.threat.eps_text == "4/255" and record.seeds == (0,)]
    gated, _ = make_record(
        [True] * 60,
        {"pgd20": [True] * 59 + [False], "arc100": [True] * 58 + [False] * 2},
        recipe="gated2adv",
        suite="strongest",
        threat=own[0].threat,
    )
    (table,) = credit_tables([*own, gated])
    rows = rows_of(table)
    assert table.keys[3:-2] == (*ATTACKS, "arc100")
    assert [row["arc100"] for row in rows] == [None, None, 1]
    assert [row["mora100"] is None for row in rows] == [False, False, True]
    assert rows[2]["passes"] is None
    assert passes(gated) is None


def test_only_cascades_have_credits(tmp_path: Path) -> None:
    build_runs(tmp_path, ("singleadv",), n=60, points=3)
    build_appendix(tmp_path, "ensemble2adv", members=2)
    records = find_records(tmp_path)
    assert credit_tables(records) == []
    for suite in ("paper", "paper500", "appendix"):
        assert not is_cascade([record for record in records if record.suite == suite])


def test_a_cascade_of_two_attacks_has_credits(records: list[Record]) -> None:
    assert is_cascade(records)
    verdicts = {"square5000": [True, True, False], "fab-t100": [True, False, False]}
    in_turn, _ = make_record([True] * 3, verdicts, suite="strongest")
    apart, _ = make_record([True] * 3, verdicts, suite="paper")
    assert is_cascade([in_turn])
    assert not is_cascade([in_turn, apart])
    alone, _ = make_record([True] * 3, {"square5000": [True, True, False]}, suite="strongest")
    assert not is_cascade([alone])
