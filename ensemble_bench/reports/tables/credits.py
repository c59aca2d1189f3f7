"""Credits: how many images each attack of a cascade broke that all before it had missed, and how many alone."""

import math
from collections.abc import Collection, Iterable

from ensemble_bench.records import CARRIED, Record
from ensemble_bench.records.table import Table, Value
from ensemble_bench.records.text import carried_eps
from ensemble_bench.reports.groups import (
    Group,
    Scored,
    group_columns,
    group_of,
    grouped,
    scored_models,
)
from ensemble_bench.reports.tables.rows import Cells, Number, conditions, table_rows

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


def alone_tables(records: Iterable[Record]) -> list[Table]:
    """As `credit_tables`, of the records that ran each attack alone too, on a sample of the images."""
    chosen = grouped((scored for scored in scored_models(records) if scored.record.recapture is not None), _key)
    return [_alone_table(runs, *key) for key, runs in chosen.items()]


def _alone_table(runs: list[Scored], group: Group, suite: str, split: str, n: int, carried: float) -> Table:
    cells = [_alone_cells(scored.record) for scored in runs]
    keys = tuple(dict.fromkeys(key for found in cells for key in found))
    caption = (
        f"{conditions(group, runs, split, n, carried or None)} Of a random sample of the images that stand and of "
        "those that fell, each attack broke so many alone; “on the output” is the same loss on what the ensemble "
        "answers instead of on its members. Fell: sampled images that stand in the suite and that one of them broke. "
        "Breakable: of all that stand, at least about so many, and up to so many (95 %)."
    )
    rows = table_rows(
        runs, keys, lambda scored: {**dict.fromkeys(keys), **_alone_cells(scored.record)}, bounds=("up to",)
    )
    return Table(
        name="alone",
        title=f"Credit without order: what each attack of the suite {suite} breaks alone",
        caption=caption,
        columns=("model", "seeds", *keys),
        keys=("model", "seeds", *keys),
        rows=tuple(rows),
        about=group_columns(group, carried or None) | {"suite": suite, "split": split, "n": str(n)},
    )


def _alone_cells(record: Record) -> Cells:
    found = record.recapture
    assert found is not None
    alone: dict[str, Number] = {}
    for attack in found.alone:
        alone[attack.name] = attack.broken
        if attack.whole is not None:
            alone[f"{attack.name} on the output"] = attack.whole
    sampled = {"sampled": found.survivors + found.broken, **alone, "sampled standing": found.survivors}
    return sampled | {"fell": found.fell, "breakable": round(found.hidden), "up to": math.floor(found.high)}


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
