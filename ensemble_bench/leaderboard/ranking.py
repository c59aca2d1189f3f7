"""Ranks: which records of a board may be ordered by their robust accuracy, and why the others may not."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble_bench import registry
from ensemble_bench.leaderboard.published import board_of, name_of
from ensemble_bench.leaderboard.rules import PRECISION, Rules, rules_of
from ensemble_bench.leaderboard.verified import Verdict, Verified, read_verified, verified_file
from ensemble_bench.records import NamedWarning, Record, place_of
from ensemble_bench.records.conditions import clean_tree, precision_of, settings_of
from ensemble_bench.registry.terms import TEST, VERIFIED

# These say something of the training, of the attacks' conditions, which are the operator's, of outputs that the attacks
# read exactly, or that the number is an expected accuracy: it stands. Any other warning contests it, also one that a
# plugin or a later version names.
NO_CONTEST = frozenset(
    {
        "catastrophic-overfitting",
        "dlr-falls-back",
        "no-plateau",
        "probabilities-not-logits",
        "randomised",
        "rescaled-logits",
        "weak-surrogates",
    }
)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a record stands on its board: its `rank`, or the `reasons` why it has none; and the verdict on it."""

    rank: int | None = None
    reasons: tuple[str, ...] = ()
    verdict: Verdict | None = None


def standings(records: Sequence[Record]) -> list[Standing]:
    """How each of the whole models' `records` stands among all of them on its board, in the same order.

    A model has one rank, its headline checkpoint's. Records that are on no board have none. Raises RecordError for
    broken rules and verdicts.
    """
    found: dict[int, Standing] = {}
    boards: dict[tuple[str, str, str], list[int]] = {}
    for place, record in enumerate(records):
        key = str(board_of(record) or ""), record.data_name, str(record.threat)
        boards.setdefault(key, []).append(place)
    for (folder, *_), places in boards.items():
        own = [records[place] for place in places]
        ranked = _on_board(own, Path(folder)) if folder else [_nowhere(record) for record in own]
        found |= dict(zip(places, ranked, strict=True))
    return [found[place] for place in range(len(records))]


def _nowhere(record: Record) -> Standing:
    return Standing(reasons=("no operator of a board evaluated it", *_contested(record)))


def _on_board(records: Sequence[Record], board: Path) -> list[Standing]:
    rules = rules_of(board)
    known = {name: read_verified(verified_file(board, name)) for name in {name_of(record) for record in records}}
    verdicts = [_verdict(known[name_of(record)], record) for record in records]
    sizes = [rules.n, *(verdict.images for verdict in verdicts if verdict is not None)]
    # Without a word of the operator the board has at least as many images as some record.
    n = rules.n or max((size for size in sizes if size is not None), default=max(record.n for record in records))
    reasons = [
        list(_reasons(record, rules, n, verdict, known[name_of(record)]))
        for record, verdict in zip(records, verdicts, strict=True)
    ]
    candidates = [place for place, why in enumerate(reasons) if not why]
    for place, why in _of_another_version(records, candidates):
        reasons[place].append(why)
    for place, why in _beside(records, [p for p in candidates if not reasons[p]], verdicts):
        reasons[place].append(why)
    ranked = [records[place].robust.accuracy for place, why in enumerate(reasons) if not why]
    return [
        Standing(
            rank=None if why else 1 + sum(other > record.robust.accuracy for other in ranked),
            reasons=tuple(why),
            verdict=verdict,
        )
        for record, why, verdict in zip(records, reasons, verdicts, strict=True)
    ]


def _verdict(known: Verified | None, record: Record) -> Verdict | None:
    return None if known is None else known.on(record)


def _reasons(record: Record, rules: Rules, n: int, verdict: Verdict | None, known: Verified | None) -> Iterator[str]:
    """Why a record has no rank, whatever the others of the board are."""
    if record.suite != rules.suite:
        yield f"suite {record.suite}: the board ranks by {rules.suite}"
    elif other := _other_definition(record):
        yield f"its suite {record.suite} is an older one: it {other}"
    if record.split != TEST:
        yield f"{record.split} images: the board ranks on {TEST} images"
    if record.n != n:
        yield f"{record.n:,} images: the board ranks on {n:,}"
    if record.seed != rules.seed:
        yield f"attack seed {record.seed}: the board's is {rules.seed}"
    if (precision := precision_of(record)) != PRECISION:
        said = f"attacks searched in {precision}" if precision else "the precision of its search was not written down"
        yield f"{said}: the board's search in {PRECISION}"
    if rules.clean and clean_tree(record) is False:
        yield "evaluated from a tree with changes that no commit holds"
    if verdict is None:
        yield "the board's operator gave no verdict on this record"
    elif verdict.status != VERIFIED:
        yield f"the operator's verdict on it is {verdict.status}"
    same = known is not None and known.weights_hash == record.weights_hash
    yield from _contested(record, known.flags if known is not None and same else ())


def _contested(record: Record, flags: Sequence[NamedWarning] = ()) -> Iterator[str]:
    """Warnings and flags that speak against the number."""
    for warning in (*record.warnings, *flags):
        if warning.name not in NO_CONTEST:
            yield f"contested by {warning.name}: {warning.message}"


def _other_definition(record: Record) -> str:
    """What tells the attacks of a record from those that its suite has now, empty where nothing does.

    Which attacks a suite leaves out for one network, and adds for a gated or randomised ensemble, is its own affair.
    """
    suite, own = registry.suite_of(record.suite), settings_of(record)
    if record.randomised is not None and suite.randomised:
        one_in = {name: k for name, k in suite.one_in.items() if name in suite.randomised}
        suite = replace(suite, attacks=suite.randomised, one_in=one_in)
    needed = [name for name in suite.attacks if name not in suite.ensembles]
    if any(name in own for name in suite.ensembles):
        needed = list(suite.attacks)
    lacking = [name for name in needed if name not in own]
    added = [name for name in own if name not in (*suite.attacks, *suite.weighted)]
    elsewhere = [name for name in own if own[name].get("one_in", 1) != suite.one_in.get(name, 1)]
    parts = [("lacks", lacking), ("has", added)] if lacking or added else [("gives other images to", elsewhere)]
    return " and ".join(f"{what} {', '.join(names)}" for what, names in parts if names)


def _of_another_version(records: Sequence[Record], candidates: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Candidates with an attack whose settings are not those that most models met it with."""
    models: dict[str, dict[str, set[str]]] = {}
    texts = {place: _texts(settings_of(records[place])) for place in candidates}
    for place, own in texts.items():
        for name, text in own.items():
            models.setdefault(name, {}).setdefault(text, set()).add(name_of(records[place]))
    # Of equally many the first by its text: any choice will do, if it is always the same.
    usual = {name: min(by, key=lambda text: (-len(by[text]), text)) for name, by in models.items()}
    for place, own in texts.items():
        if unlike := [name for name, text in own.items() if text != usual[name]]:
            yield place, f"other settings of {', '.join(unlike)} than most models of the board were attacked with"


def _texts(settings: Mapping[str, object]) -> dict[str, str]:
    return {name: json.dumps(its, sort_keys=True) for name, its in settings.items()}


def _beside(
    records: Sequence[Record], candidates: Sequence[int], verdicts: Sequence[Verdict | None]
) -> Iterator[tuple[int, str]]:
    """Candidates whose model is ranked by another record, and those whose weights are ranked under another name."""

    def order(place: int) -> tuple[object, ...]:
        record, verdict = records[place], verdicts[place]
        date = "" if verdict is None else verdict.date
        return place_of(record.checkpoint), date, name_of(record), record.id, str(record.path)

    # Whose weights are whose is a matter of dates alone, as what a checkpoint is called is its submitter's choice.
    owners: dict[str, str] = {}
    for place in sorted(candidates, key=lambda place: order(place)[1:]):
        owners.setdefault(records[place].weights_hash, name_of(records[place]))
    names: dict[str, Record] = {}
    for place in sorted(candidates, key=order):
        record, name = records[place], name_of(records[place])
        if (owner := owners[record.weights_hash]) != name:
            yield place, f"these weights are published as {owner}"
        elif name in names:
            other = names[name]
            what = "another evaluation" if other.weights_hash == record.weights_hash else f"{other.checkpoint} weights"
            yield place, f"the model is ranked by {what} of it"
        else:
            names[name] = record
