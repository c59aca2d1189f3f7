"""Table 2 of Grefenstette et al. (2018): members, ensemble and logit average under the strongest attack."""

from collections.abc import Iterable, Iterator

from ensemble_bench.records import Record
from ensemble_bench.records.table import Cell, Table, Value, percent
from ensemble_bench.records.text import seeds_text
from ensemble_bench.reports.alike import Row, rows_of
from ensemble_bench.reports.groups import Group, all_seeds, group_columns, grouped
from ensemble_bench.reports.run_parts import ENSEMBLE, RunParts, own_attacks, run_parts
from ensemble_bench.reports.tables.rows import Cells, conditions, mean_of, table_rows

TITLE = "Table 2: against the strongest adversary"
KEYS = ("clean", "adversarial")


def table_2(records: Iterable[Record]) -> list[Table]:
    """A table an ensemble, after one of the mean over its seeds, then one of the single networks, group by group."""
    tables = []
    for key, runs in grouped(run_parts(records), lambda run: (run.group, run.split, run.n, run.carried or 0.0)).items():
        for row in rows_of(run for run in runs if not run.is_single):
            tables += [_mean_table(row)] if len(row.runs) > 1 else []
            tables += [_ensemble_table(label, run) for label, run in row.every()]
        singles = [run for run in runs if run.is_single]
        if singles:
            tables.append(_single_table(singles, *key))
    return tables


def _cells(record: Record) -> Cells:
    return {"clean": Value(accuracy=record.clean.accuracy), "adversarial": Value.of(record.robust)}


def _ensemble_table(label: str, run: RunParts) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for part, record in run.parts.items():
        rows.append((part, *_cells(record).values()))
        for other in run.again.get(part, ()):
            rows.append((f"{part} (again: record {other.id[:8]})", *_cells(other).values()))
    caption = " ".join([conditions(run.group, [run.scored], run.split, run.n, run.carried), *_sentences(run)])
    return _table_of_parts(run, f"{TITLE}, {run.run}{run.suffix}", caption, rows, label, seeds_text(run.seeds))


def _mean_table(row: Row[RunParts]) -> Table:
    """The means of each part over the seeds of an ensemble."""
    first, seeds = row.runs[0], f"mean of {all_seeds(row.runs)}"
    rows: list[tuple[Cell, ...]] = []
    for part in first.parts:
        values = [_cells(run.parts[part]) for run in row.runs]
        rows.append((part, *(mean_of([value[key] for value in values]) for key in KEYS)))
    caption = f"{conditions(first.group, row.runs, first.split, first.n, first.carried)} {_PERCENT}"
    return _table_of_parts(first, f"{TITLE}, {row.label}, {seeds}", caption, rows, row.label, seeds)


def _table_of_parts(
    run: RunParts, title: str, caption: str, rows: Iterable[tuple[Cell, ...]], label: str, seeds: str
) -> Table:
    about = group_columns(run.group, run.carried) | {"split": run.split, "n": str(run.n)}
    return Table(
        name="table2",
        title=title,
        caption=caption,
        columns=("model", "clean accuracy", "adversarial accuracy [95 %]"),
        keys=("part", *KEYS),
        rows=tuple(rows),
        about=about | {"model": label, "seeds": seeds},
    )


def _single_table(runs: list[RunParts], group: Group, split: str, n: int, carried: float) -> Table:
    return Table(
        name="table2",
        title=f"{TITLE}, single networks",
        caption=f"{conditions(group, runs, split, n, carried or None)} {_PERCENT}",
        columns=("model", "seeds", "clean accuracy", "adversarial accuracy [95 %]"),
        keys=("model", "seeds", *KEYS),
        rows=tuple(table_rows(runs, KEYS, lambda run: _cells(run.parts[ENSEMBLE]))),
        about=group_columns(group, carried or None) | {"split": split, "n": str(n)},
    )


_PERCENT = "Accuracies in percent; adversarial: worst case per image over all attacks on the row's model."


def _sentences(run: RunParts) -> Iterator[str]:
    """What the attacks were, and which of those on the ensemble was the strongest."""
    yield _PERCENT
    for label, record in run.parts.items():
        tried = [attack for attack in own_attacks(record) if attack.accuracy is not None]
        if record.view is not None or len(tried) < 2:
            continue
        fewest = min(attack.accuracy for attack in tried if attack.accuracy is not None)
        strongest = " and ".join(attack.name for attack in tried if attack.accuracy == fewest)
        yield (
            f"{label}: {len(tried)} attacks, of which {strongest} left the fewest images standing ({percent(fewest)})."
        )
