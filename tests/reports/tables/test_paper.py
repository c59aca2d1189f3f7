"""The paper's numbers beside ours: what is printed there, in the columns that both have."""

import pytest

from ensemble_bench.records.table import Table, Value
from ensemble_bench.registry import RECIPES
from ensemble_bench.reports.tables.paper import PAPER, beside_paper

ABOUT = {"data_name": "digits", "preset": "tiny", "threat": "linf 32/255"}


def a_table(name: str, keys: tuple[str, ...], *rows: tuple[object, ...], **about: str) -> Table:
    return Table(
        name=name,
        title=name,
        caption="n = 9.",
        columns=keys,
        keys=keys,
        rows=rows,
        about={**ABOUT, **about},  # type: ignore[arg-type]
    )


def test_the_first_row_of_a_recipe_stands_beside_the_papers() -> None:
    keys = ("model", "seeds", "clean", "ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox")

    def row(model: str, seeds: str, value: float, sd: float | None = None) -> tuple[object, ...]:
        return (
            model,
            seeds,
            *(Value(accuracy=value, sd=sd, ci_low=None if sd else 0.1, ci_high=0.9) for _ in keys[2:]),
        )

    rows = (row("singleadv", "mean of 0, 1", 0.5, 0.02), row("singleadv", "0", 0.48), row("gated2adv", "0", 0.4))
    (table,) = beside_paper([a_table("table1b", keys, *rows, row("doubleadv", "0", 0.3))])
    assert table.keys == (
        *("model", "clean_paper", "clean", "ifgsm5_paper", "ifgsm5", "pgd5_paper", "pgd5"),
        *("pgd20_paper", "pgd20", "blackbox_paper", "blackbox"),
    )
    assert table.text_rows() == (
        (
            "singleadv",
            *(
                "84.0",
                "50.0 ± 2.0",
                "57.0",
                "50.0 ± 2.0",
                "46.0",
                "50.0 ± 2.0",
                "45.0",
                "50.0 ± 2.0",
                "81.0",
                "50.0 ± 2.0",
            ),
        ),
        ("doubleadv", *("85.0", "30.0", "60.0", "30.0", "48.0", "30.0", "47.0", "30.0", "84.0", "30.0")),
    )


def test_table_2_is_of_four_networks_alone() -> None:
    parts = [
        ("Model 1", Value(accuracy=0.6), Value(accuracy=0.3)),
        ("Ensemble", Value(accuracy=0.9), Value(accuracy=0.5)),
    ]
    tables = [
        a_table("table2", ("part", "clean", "adversarial"), *parts, model=of) for of in ("ensemble2adv", "ensemble4adv")
    ]
    (table,) = beside_paper(tables)
    assert table.text_rows() == (
        ("Model 1", "63.8", "60.0", "34.4", "30.0"),
        ("Ensemble", "87.6", "90.0", "49.7", "50.0"),
    )


def test_of_a_mean_and_its_seeds_the_mean_stands() -> None:
    first, second = (
        a_table(
            "table2",
            ("part", "clean", "adversarial"),
            ("Ensemble", Value(accuracy=a), Value(accuracy=a)),
            model="ensemble4adv",
            seeds=seeds,
        )
        for a, seeds in ((0.7, "mean of 0, 1"), (0.6, "0"))
    )
    (table,) = beside_paper([first, second])
    assert table.text_rows()[0][2] == "70.0"


def test_what_the_paper_lacks_is_left_out() -> None:
    keys = ("model", "seeds", "ifgsm500", "pgd500")
    assert beside_paper([a_table("table1c", keys, ("quadadv", "0", Value(accuracy=0.5), None))]) == []
    assert beside_paper([a_table("credits", keys, ("singleadv", "0", 3, 4))]) == []


@pytest.mark.parametrize("name", PAPER)
def test_every_row_has_every_column(name: str) -> None:
    printed = PAPER[name]
    assert {len(row) for row in printed.rows.values()} == {len(printed.keys)}
    assert all(0 < number < 1 for row in printed.rows.values() for number in row)
    if name != "table2":
        assert set(printed.rows) <= set(RECIPES)
