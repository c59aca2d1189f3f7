"""Credit without order: what the table says of a record that ran each attack alone too."""

from synthetic_runs import record_of, scored

from ensemble_bench.records import AttackResult
from ensemble_bench.records.recapture import Alone, Recapture
from ensemble_bench.reports.tables.credits import alone_tables


def test_each_attack_alone_and_the_same_loss_on_the_output() -> None:
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
        high=35.2,
        seconds=2.0,
    )
    record = record_of(clean=150, robust=75, n=n, attacks=attacks, suite="strongest", recapture=found)
    (table,) = alone_tables([record, record_of(clean=150, robust=75, n=n, attacks=attacks, suite="quick")])
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
