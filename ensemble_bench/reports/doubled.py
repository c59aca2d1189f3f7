"""Doubled seeds: which of several runs or evaluations of one seed stands in a mean."""

from collections.abc import Iterable, Sequence

from ensemble_bench.records import Record
from ensemble_bench.records.text import carried_eps, seeds_text
from ensemble_bench.reports.alike import rows_of
from ensemble_bench.reports.groups import Run, Scored, group_of, grouped, scored_models
from ensemble_bench.reports.training_curves import Curve

RULE = (
    "Seeds that several runs or evaluations have count once: the folder nearest to the root stands, then the first by "
    "name; of several evaluations of one model the lowest worst case."
)


def notes_on_doubled(records: Iterable[Record], curves: Sequence[Curve]) -> list[str]:
    """Return a note on every seed that several runs or evaluations have, after one on which of them stands."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for runs in grouped(curves, lambda curve: (curve.group, curve.n or 0)).values():
        for doubled in _texts(runs):
            found.setdefault(doubled, {})["curves"] = None
    for (_, suite, *_), same in grouped(scored_models(records), _key).items():
        for doubled in _texts(same):
            found.setdefault(doubled, {})[f"suite {suite}"] = None
    notes, several = list[str](), dict[str, list[str]]()
    for (text, run), places in found.items():
        where = ", ".join(places)
        if text:
            notes.append(f"{text} ({where}).")
        else:
            several.setdefault(where, []).append(run)
    notes += [f"Evaluated several times ({where}): {', '.join(runs)}." for where, runs in several.items()]
    return [RULE, *notes] if notes else []


def _key(scored: Scored) -> tuple[object, ...]:
    record = scored.record
    return group_of(record), record.suite, record.split, record.n, carried_eps(record) or 0.0


def _texts(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """What stands and what does not, a text a seed, with the run; no text where that was only evaluated again."""
    texts = []
    for row in rows_of(runs):
        for run, others in row.doubled():
            seed = f"{row.label}, seed {seeds_text(run.seeds)}" if run.seeds else row.label
            elsewhere = dict.fromkeys(other.where for other in others if other.where != run.where)
            if elsewhere:
                texts.append((f"{seed}: {run.where} stands, not counted again: {', '.join(elsewhere)}", run.where))
            if any(other.where == run.where for other in others):
                texts.append(("", run.where))
    return texts
