"""Table 2 of Grefenstette et al. (2018): members, ensemble and logit average under the strongest attack."""

from collections.abc import Iterable, Iterator

from ensemble_bench.records import Record
from ensemble_bench.records.table import Cell, Table, Value, percent
from ensemble_bench.records.text import seeds_text
from ensemble_bench.reports.groups import Group, about, facts, grouped
from ensemble_bench.reports.run_parts import ENSEMBLE, RunParts, own_attacks, run_parts

TITLE = "Table 2: against the strongest adversary"


def table_2(records: Iterable[Record]) -> list[Table]:
    """A table an ensemble, then one of the single networks beside which it can stand, group by group."""
    tables = []
    for key, runs in grouped(run_parts(records), lambda run: (run.group, run.split, run.n, run.carried or 0.0)).items():
        tables += [_ensemble_table(run) for run in runs if not run.is_single]
        singles = [run for run in runs if run.is_single]
        if singles:
            tables.append(_single_table(singles, *key))
    return tables


def _cells(record: Record) -> tuple[Value, Value]:
    robust = record.robust
    worst = Value(accuracy=robust.accuracy, ci_low=robust.ci_low, ci_high=robust.ci_high)
    return Value(accuracy=record.clean.accuracy), worst


def _ensemble_table(run: RunParts) -> Table:
    rows: list[tuple[Cell, ...]] = [(label, *_cells(record)) for label, record in run.parts.items()]
    told = about(run.group, run.carried) | {"split": run.split, "n": str(run.n)}
    return Table(
        name="table2",
        title=f"{TITLE}, {run.run}",
        caption=" ".join([facts(run.group, [run.scored], run.split, run.n, run.carried), *_sentences(run)]),
        columns=("model", "clean accuracy", "adversarial accuracy [95 %]"),
        keys=("part", "clean", "adversarial"),
        rows=tuple(rows),
        about=told | {"run": run.run, "seeds": seeds_text(run.scored.seeds)},
    )


def _single_table(runs: list[RunParts], group: Group, split: str, n: int, carried: float) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (run.run + label.removeprefix(ENSEMBLE), seeds_text(run.scored.seeds), *_cells(record))
        for run in runs
        for label, record in run.parts.items()
    ]
    scored = [run.scored for run in runs]
    return Table(
        name="table2",
        title=f"{TITLE}, single networks",
        caption=f"{facts(group, scored, split, n, carried or None)} {_PERCENT}",
        columns=("model", "seeds", "clean accuracy", "adversarial accuracy [95 %]"),
        keys=("run", "seeds", "clean", "adversarial"),
        rows=tuple(rows),
        about=about(group, carried or None) | {"split": split, "n": str(n)},
    )


_PERCENT = "Accuracies in percent; adversarial: worst case per image over all attacks on the row's model."


def _sentences(run: RunParts) -> Iterator[str]:
    """What the attacks were, and which of those on the ensemble was the strongest."""
    yield _PERCENT
    for label, record in run.parts.items():
        tried = own_attacks(record)
        if record.view is not None or len(tried) < 2:
            continue
        fewest = min(attack.robust for attack in tried)
        strongest = " and ".join(attack.name for attack in tried if attack.robust == fewest)
        yield (
            f"{label}: {len(tried)} attacks, of which {strongest} left the fewest images standing "
            f"({percent(fewest / record.n)})."
        )
