"""Credit without order: what the table says of a record that ran each attack alone too."""

from dataclasses import replace

from synthetic_runs import record_of, scored

from ensemble_bench.records import AttackResult, Record
from ensemble_bench.records.recapture import Alone, Recapture
from ensemble_bench.reports.tables.credits import alone_tables


def recaptured(seed: int = 0, high: float = 35.2) -> Record:
    """A record of a cascade that ran each attack alone too."""
    n = 200
    attacks = tuple(
        AttackResult(name=name, settings={"name": name}, robust=robust, **scored(robust, n), credit=credit, seconds=1.0)
        for name, robust, credit in (("sweep10", 80, 70), ("mora10", 75, 5))
    )
    found = Recapture(
        survivors=8,
        broken=8,
        fell=1,
        alone=(Alone(name="sweep10", broken=7, passes=10), Alone(name="mora10", broken=8, passes=20, whole=6)),
        hidden=9.4,
        low=1.7,
        high=high,
        seconds=2.0,
    )
    about = {"seeds": (seed,), "suite": "strongest", "recapture": found}
    return record_of(clean=150, robust=75, n=n, attacks=attacks, **about)


def test_each_attack_alone_and_the_same_loss_on_the_output() -> None:
    (table,) = alone_tables([recaptured(), replace(recaptured(), suite="quick", recapture=None)])
    (row,) = table.rows
    assert dict(zip(table.columns[2:], row[2:], strict=True)) == {
        "sampled": 16,
        "sweep10": 7,
        "mora10": 8,
        "mora10 on the output": 6,
        "sampled standing": 8,
        "fell": 1,
        "breakable": 9,
        "up to": 35,
    }
    assert table.about["suite"] == "strongest"


def test_the_mean_over_seeds_has_no_upper_end() -> None:
    """A mean of upper ends of 95 % intervals is no end of one."""
    (table,) = alone_tables([recaptured(0), recaptured(1, high=40.7)])
    mean, *each = (dict(zip(table.keys, row, strict=True)) for row in table.rows)
    assert (mean["seeds"], mean["up to"], str(mean["breakable"])) == ("mean of 0, 1", None, "9.0 ± 0.0")
    assert [row["up to"] for row in each] == [35, 40]
    assert "Mean ± sd over seeds." in table.caption
