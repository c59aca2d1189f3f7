"""The table and the figure of costs, against records whose counts are planted."""

from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from planted_verdicts import first, planted, three

from ensemble_bench.records import Record, find_records
from ensemble_bench.records.table import Amount, Value, to_csv, to_markdown
from ensemble_bench.reports.figures.cost import cost_panels
from ensemble_bench.reports.figures.lines import write_figure
from ensemble_bench.reports.tables.cost import cost_tables

COSTS = {
    "singleadv": {"parameters": 303_000, "flops": 77_700_000},
    "doubleadv": {"parameters": 605_000, "flops": 149_800_000},
    "ensemble2adv": {"parameters": 606_000, "flops": 155_400_000, "forward_passes": 2},
    "ensemble2": {"parameters": 606_000, "flops": 155_400_000, "forward_passes": 2},
}


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Three seeds of two recipes, one of a third, and one of standard training, on 1,000 images each."""
    three(tmp_path, "singleadv", 300, 310, 320, **COSTS["singleadv"])
    three(tmp_path, "doubleadv", 330, 331, 332, **COSTS["doubleadv"])
    planted(tmp_path, "ensemble2adv", first(1000, 325), **COSTS["ensemble2adv"])
    planted(tmp_path, "ensemble2", first(1000, 4), **COSTS["ensemble2"])
    return find_records(tmp_path)


def test_a_row_a_recipe_with_costs_and_means(records: list[Record]) -> None:
    (table,) = cost_tables(records)
    rows = {row[0]: dict(zip(table.keys, row, strict=True)) for row in table.rows}
    assert list(rows) == ["ensemble2", "singleadv", "doubleadv", "ensemble2adv"]
    found = rows["singleadv"]
    assert (found["seeds"], found["networks"]) == ("0, 1, 2", 1)
    assert (found["parameters"], found["flops"]) == (Amount(count=303_000), Amount(count=77_700_000))
    spread = [0.300, 0.310, 0.320]
    assert found["worst_case"] == Value(accuracy=pytest.approx(mean(spread)), sd=pytest.approx(stdev(spread)))
    (alone,) = [record for record in records if record.recipe == "ensemble2adv"]
    assert rows["ensemble2adv"]["worst_case"] == Value.of(alone.robust)
    assert rows["ensemble2adv"]["networks"] == 2
    assert "of one seed with its 95 % interval" in table.caption


def test_readers_see_amounts_and_programs_counts(records: list[Record]) -> None:
    tables = cost_tables(records)
    assert "| 303 k | 77.7 M |" in to_markdown(tables)
    assert ",303000,77700000," in to_csv(tables)


def test_suites_that_do_not_decide_have_no_costs(tmp_path: Path) -> None:
    planted(tmp_path, "singleadv", first(100, 40), suite="paper")
    records = find_records(tmp_path)
    assert (cost_tables(records), cost_panels(records)) == ([], [])


def test_suites_and_numbers_of_images_are_tables_of_their_own(tmp_path: Path) -> None:
    for suite, n in (("strongest", 100), ("quick", 100), ("quick", 200)):
        planted(tmp_path / f"{suite}{n}", "singleadv", first(n, 40), suite=suite)
    abouts = [(table.about["suite"], table.about["n"]) for table in cost_tables(find_records(tmp_path))]
    assert abouts == [("quick", "200"), ("quick", "100"), ("strongest", "100")]


def test_a_point_a_recipe_and_equal_costs_side_by_side(records: list[Record], tmp_path: Path) -> None:
    (panel,) = cost_panels(records)
    points = {line.label: line for line in panel.lines}
    assert list(points) == ["singleadv", "doubleadv", "ensemble2adv"]
    assert points["singleadv"].y[0] == pytest.approx(0.31)
    assert points["singleadv"].x[0] == pytest.approx(77.7)
    assert points["doubleadv"].x[0] < 149.8 < points["ensemble2adv"].x[0]
    band = points["singleadv"].band
    assert band is not None
    assert np.allclose(band, [[0.30], [0.32]])
    assert points["ensemble2adv"].band is None
    assert panel.ticks == (77.7, 150)
    assert panel.x_label == "10⁶ FLOPs of a prediction"
    assert panel.setting.endswith("; not drawn, at most 0.4 %: ensemble2")
    assert panel.title == "doubleadv is highest, at 33.1 %; ensemble2adv at 32.5 %"
    assert all(path.stat().st_size > 1000 for path in write_figure([panel], tmp_path / "cost"))


def test_a_model_of_unknown_cost_is_in_the_table_alone(tmp_path: Path) -> None:
    planted(tmp_path, "singleadv", first(100, 40), flops=None)
    for recipe in ("doubleadv", "ensemble2adv"):
        planted(tmp_path, recipe, first(100, 40), **COSTS[recipe])
    records = find_records(tmp_path)
    (table,) = cost_tables(records)
    assert table.rows[0][table.keys.index("flops")] is None
    (panel,) = cost_panels(records)
    assert [line.label for line in panel.lines] == ["doubleadv", "ensemble2adv"]


def test_one_recipe_alone_is_in_the_table_and_in_no_figure(tmp_path: Path) -> None:
    three(tmp_path, "singleadv", 300, 310, 320, **COSTS["singleadv"])
    planted(tmp_path, "ensemble2", first(1000, 4), **COSTS["ensemble2"])
    records = find_records(tmp_path)
    assert len(cost_tables(records)) == 1
    assert cost_panels(records) == []
