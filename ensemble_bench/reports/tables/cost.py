"""What a prediction costs, and how many images withstand the suites that decide: a row a recipe."""

from collections.abc import Iterable
from dataclasses import dataclass

from ensemble_bench.records import Record
from ensemble_bench.records.table import Amount, Cell, Table, Value
from ensemble_bench.records.text import carried_eps, seeds_text
from ensemble_bench.reports.alike import Row, rows_of
from ensemble_bench.reports.claims import PRIMARY
from ensemble_bench.reports.groups import Group, Scored, all_seeds, group_columns, group_of, grouped, scored_models
from ensemble_bench.reports.tables.rows import conditions, mean_of

COLUMNS = ("model", "seeds", "networks", "parameters", "FLOPs", "clean", "worst case")
KEYS = ("model", "seeds", "networks", "parameters", "flops", "clean", "worst_case")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The models of one group that met a suite on the same images: what one table, or one panel, shows."""

    group: Group
    suite: str
    split: str
    n: int
    rows: tuple[Row[Scored], ...]


def compared(records: Iterable[Record]) -> list[Compared]:
    """Every group's headline checkpoints under the suites that decide on claims, on the most images first."""
    records = list(records)
    found = []
    for suite in PRIMARY:
        models = [scored for scored in scored_models(records, suite) if carried_eps(scored.record) is None]
        by_images = grouped(models, lambda s: (group_of(s.record), -s.record.n, s.record.split))
        found += [
            Compared(group=group, suite=suite, split=split, n=-n, rows=tuple(rows_of(own)))
            for (group, n, split), own in by_images.items()
        ]
    return found


def cost_tables(records: Iterable[Record]) -> list[Table]:
    """Networks, parameters, FLOPs of a prediction, clean and worst-case accuracy: a table a suite and number of images.

    Accuracies are means ± sd over seeds, of a single one with its 95 % interval.
    """
    return [_table(part) for part in compared(records)]


def _table(part: Compared) -> Table:
    runs = [run for row in part.rows for run in row.runs]
    alone = ", of one seed with its 95 % interval" if any(len(row.runs) == 1 for row in part.rows) else ""
    sentences = [
        conditions(part.group, runs, part.split, part.n),
        f"Accuracies in percent; worst case: over all attacks, per image{alone}.",
        "FLOPs of one prediction, a multiply-add counted as 2.",
    ]
    return Table(
        name="cost_table",
        title=f"Cost and robustness: suite {part.suite}",
        caption=" ".join(sentences),
        columns=COLUMNS,
        keys=KEYS,
        rows=tuple(map(_row, part.rows)),
        about=group_columns(part.group) | {"suite": part.suite, "split": part.split, "n": str(part.n)},
    )


def _row(row: Row[Scored]) -> tuple[Cell, ...]:
    records = [scored.record for scored in row.runs]
    first = records[0]  # those of a row have one architecture
    flops = None if first.flops is None else Amount(count=first.flops)
    costs = first.forward_passes, Amount(count=first.parameters), flops
    if len(records) == 1:
        accuracies: tuple[Cell, ...] = Value(accuracy=first.clean.accuracy), Value.of(first.robust)
    else:
        accuracies = mean_of([Value.of(r.clean) for r in records]), mean_of([Value.of(r.robust) for r in records])
    seeds = seeds_text(first.seeds) if len(records) == 1 else all_seeds(row.runs)
    return (row.label, seeds, *costs, *accuracies)
