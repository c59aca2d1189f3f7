"""Table 2 of Grefenstette et al. (2018): members, ensemble and logit average under the strongest attack."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ensemble_bench.records import CARRIED, AttackResult, Record
from ensemble_bench.records.table import Cell, Table, Value, percent
from ensemble_bench.records.text import carried_eps, natural, seeds_text
from ensemble_bench.reports.groups import BEST, Group, Scored, about, facts, group_of, grouped, place

SUITE = "appendix"
ENSEMBLE, LOGIT = "Ensemble", "Ensemble (remove softmax)"
TITLE = "Table 2: against the strongest adversary"


@dataclass(frozen=True, kw_only=True)
class Dissected:
    """A run's best checkpoint under the suite `appendix`: the records of its parts, all of the same images.

    `parts` are in the table's order: "Model 1", "Model 2", …, "Ensemble", "Ensemble (remove softmax)". `carried` is the
    smaller eps whose fallen images count as fallen, None without one.
    """

    group: Group
    run: str
    split: str
    n: int
    carried: float | None
    parts: Mapping[str, Record]

    @property
    def scored(self) -> Scored:
        """The run, as captions name it."""
        return Scored(record=next(iter(self.parts.values())))

    @property
    def is_single(self) -> bool:
        """Whether it is one network, which has no parts."""
        return all(record.view is None and record.forward_passes == 1 for record in self.parts.values())


def dissected(records: Iterable[Record]) -> list[Dissected]:
    """Collect the records of each run, in the paper's order of recipes."""
    chosen = [record for record in records if record.suite == SUITE and record.checkpoint in BEST]
    found = []
    for key, own in grouped(chosen, _key).items():
        group, split, n, carried, *_, run, _ = key
        parts = {_label(record, own): record for record in sorted(own, key=lambda r: (_order(r.view), r.id))}
        found.append(Dissected(group=group, run=run, split=split, n=n, carried=carried or None, parts=parts))
    return found


def table_2(records: Iterable[Record]) -> list[Table]:
    """A table an ensemble, then one of the single networks beside which it can stand, group by group."""
    tables = []
    for key, runs in grouped(dissected(records), lambda run: (run.group, run.split, run.n, run.carried or 0.0)).items():
        tables += [_ensemble_table(run) for run in runs if not run.is_single]
        singles = [run for run in runs if run.is_single]
        if singles:
            tables.append(_single_table(singles, *key))
    return tables


def doublings(attack: AttackResult, n: int) -> list[tuple[int, float]] | None:
    """Return, for every doubling that ran, its steps and the accuracy after it and all before; None for other attacks.

    `n` is the number of images that the accuracy is of.
    """
    if attack.stages is None:
        first = (attack.settings.get("stages") or [{}])[0]
        steps = _steps(attack, str(first.get("name")))
        return None if steps is None else [(steps, attack.robust / n)]
    found, standing = [], attack.stages[0].attacked
    for stage in attack.stages:
        steps = _steps(attack, stage.name)
        if steps is None:
            return None
        standing -= stage.broken
        found.append((steps, standing / n))
    return found


def strategies(record: Record) -> list[AttackResult]:
    """Return the attacks of the record: all that it names but the images carried over from a smaller eps."""
    return [attack for attack in record.attacks if attack.name != CARRIED]


def strategy(attack: AttackResult) -> str:
    """Return the name of an attack without its steps: "margin" for margin-doubled1280."""
    return re.sub(r"(-doubled)?-?\d+$", "", attack.name)


def _steps(attack: AttackResult, stage: str) -> int | None:
    """Steps of a doubling, from its name: 20 for margin-doubled1280/20."""
    name, _, steps = stage.rpartition("/")
    return int(steps) if name == attack.name and "-doubled" in name and steps.isdigit() else None


def _key(record: Record) -> tuple[Group, str, int, float, int, str, tuple[int, ...], str, str]:
    scored = Scored(record=record)
    measured = group_of(record), record.split, record.n, carried_eps(record) or 0.0
    return *measured, place(scored.recipe), record.recipe or "", record.seeds, record.run, record.weights_hash


def _order(view: str | None) -> tuple[int, list[tuple[bool, int, str]]]:
    """Members first, by number, then the whole, then the logit average."""
    return (1, []) if view is None else (2, []) if view == "logit" else (0, natural(view))


def _label(record: Record, own: Iterable[Record]) -> str:
    """Name of the row; a part that was evaluated several times (another seed, say) is told apart by its record."""
    number = (record.view or "").removeprefix("member")
    label = {"": ENSEMBLE, "logit": LOGIT}.get(number, f"Model {number}")
    several = sum(other.view == record.view for other in own) > 1
    return f"{label} ({record.id[:8]})" if several else label


def _cells(record: Record) -> tuple[Value, Value]:
    robust = record.robust
    worst = Value(accuracy=robust.accuracy, ci_low=robust.ci_low, ci_high=robust.ci_high)
    return Value(accuracy=record.clean.accuracy), worst


def _ensemble_table(run: Dissected) -> Table:
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


def _single_table(runs: list[Dissected], group: Group, split: str, n: int, carried: float) -> Table:
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


def _sentences(run: Dissected) -> Iterator[str]:
    """What the attacks were, and which of those on the ensemble was the strongest."""
    yield _PERCENT
    for label, record in run.parts.items():
        tried = strategies(record)
        if record.view is not None or len(tried) < 2:
            continue
        fewest = min(attack.robust for attack in tried)
        strongest = " and ".join(attack.name for attack in tried if attack.robust == fewest)
        yield (
            f"{label}: {len(tried)} attacks, of which {strongest} left the fewest images standing "
            f"({percent(fewest / record.n)})."
        )
