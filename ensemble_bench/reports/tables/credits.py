"""Credits: which attack of a cascade broke how many images that all attacks before it had missed."""

from collections.abc import Collection, Iterable

from ensemble_bench.records import CARRIED, Record
from ensemble_bench.records.table import Table, Value
from ensemble_bench.records.text import carried_eps
from ensemble_bench.reports.groups import (
    Group,
    Scored,
    conditions,
    group_columns,
    group_of,
    grouped,
    scored_models,
)
from ensemble_bench.reports.tables.rows import Cells, table_rows

HEADINGS = {CARRIED: "fell at a smaller eps"}


def is_cascade(records: Collection[Record]) -> bool:
    """Whether each attack ran on what those before it left standing, in all of these; False where none holds two."""
    several = any(sum(attack.name != CARRIED for attack in record.attacks) > 1 for record in records)
    return several and all(record.cascade for record in records)


def credit_tables(records: Iterable[Record]) -> list[Table]:
    """A table for every cascade on the same images, a row a model, and the mean of the seeds."""
    chosen = grouped(scored_models(records), _key)
    return [_table(runs, *key) for key, runs in chosen.items() if is_cascade([scored.record for scored in runs])]


def _key(scored: Scored) -> tuple[Group, str, str, int, float]:
    record = scored.record
    return group_of(record), record.suite, record.split, record.n, carried_eps(record) or 0.0


def _table(runs: list[Scored], group: Group, suite: str, split: str, n: int, carried: float) -> Table:
    attacks = tuple(dict.fromkeys(attack.name for scored in runs for attack in scored.record.attacks))
    keys = ("clean", *attacks, "worst_case", "passes")
    caption = (
        f"{conditions(group, runs, split, n, carried or None)} Each attack ran on the images that all before it, from "
        "left to right, left standing, and broke so many of them; accuracies in percent. Passes: images pushed through "
        "the model, forward or backward."
    )
    return Table(
        name="credits",
        title=f"Credits: what each attack of the suite {suite} broke",
        caption=caption,
        columns=("model", "seeds", "clean", *(HEADINGS.get(a, a) for a in attacks), "worst case [95 %]", "passes"),
        keys=("model", "seeds", *keys),
        rows=tuple(table_rows(runs, keys, lambda scored: _cells(scored.record, attacks))),
        about=group_columns(group, carried or None) | {"suite": suite, "split": split, "n": str(n)},
    )


def _cells(record: Record, attacks: Iterable[str]) -> Cells:
    results = {name: record.attack(name) for name in attacks}
    return {
        "clean": Value(accuracy=record.clean.accuracy),
        **{name: None if attack is None else attack.credit for name, attack in results.items()},
        "worst_case": Value.of(record.robust),
        "passes": passes(record),
    }


def passes(record: Record) -> int | None:
    """Return how many images all attacks together pushed through the model, None where an attack did not count."""
    counts = [attack.passes for attack in record.attacks]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
