"""Entries: the lines of the table, of our models and of RobustBench's, and their CSV and JSON."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ensemble_bench.leaderboard.model_info import architecture_text
from ensemble_bench.leaderboard.published import board_of
from ensemble_bench.leaderboard.site.models import Model
from ensemble_bench.records import CARRIED, NamedWarning, Record, Threat
from ensemble_bench.records.conditions import conditions_of
from ensemble_bench.records.csv_text import csv_text
from ensemble_bench.records.decoding import plain
from ensemble_bench.records.statistics import mean_sd
from ensemble_bench.records.table import Value
from ensemble_bench.records.text import fraction, natural, seeds_text
from ensemble_bench.registry.terms import TEST

OURS = "ensemble-bench"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the table: a model on a data set under a threat, with the worst case of `suite`.

    `rank` is its place on its board, or `reasons` say why it has none. `union` is the worst case over all evaluations
    of the weights, `over_seeds` the mean over `seed_count` models that differ by their seed alone, and have `alike` in
    common.
    Unknown values are None or empty. `partial` holds the number of images of attacks that cover a part of the `n`.
    `about` stands below the name, `title` is the paper's; `page` is the model's page in the site, `link` one elsewhere.
    `claimed`: the recipe is what the maker of a published model says, and nobody checked.
    """

    name: str
    source: str = OURS
    recipe: str = ""
    about: str = ""
    title: str = ""
    data_name: str
    threat: Threat
    suite: str
    split: str = TEST
    n: int | None = None
    robust: Value
    clean: Value
    attacks: Mapping[str, float] = field(default_factory=dict)
    partial: Mapping[str, int] = field(default_factory=dict)
    parameters: int | None = None
    flops: int | None = None
    forward_passes: int | None = None
    seeds: tuple[int, ...] = ()
    members: int = 1
    warnings: tuple[NamedWarning, ...] = ()
    rank: int | None = None
    reasons: tuple[str, ...] = ()
    union: Value | None = None
    over_seeds: Value | None = None
    seed_count: int = 1
    alike: str = ""
    verified: str = ""
    claimed: bool = False
    page: str | None = None
    link: str | None = None

    @property
    def board(self) -> str:
        """What entries have to share to be comparable at all: data set and threat."""
        return f"{self.data_name}, {self.threat}"


def entry_of(model: Model) -> Entry:
    """The line of a model, from the record that ranks it."""
    record = model.record
    return Entry(
        name=model.name,
        recipe=record.recipe or "",
        about=describe(record),
        data_name=record.data_name,
        threat=record.threat,
        suite=record.suite,
        split=record.split,
        n=record.n,
        robust=Value.of(record.robust),
        clean=Value.of(record.clean),
        attacks={a.name: a.accuracy for a in record.attacks if a.accuracy is not None and a.name != CARRIED},
        partial={a.name: a.n for a in record.attacks if a.accuracy is not None and a.n != record.n},
        parameters=record.parameters,
        flops=record.flops,
        forward_passes=record.forward_passes,
        seeds=record.seeds,
        members=members_of(record),
        warnings=record.warnings,
        rank=model.standing.rank,
        reasons=model.standing.reasons,
        union=model.union,
        verified="" if model.standing.verdict is None else model.standing.verdict.status,
        claimed=board_of(record) is not None,
        page=f"{model.folder}/index.html",
    )


def with_seeds(models: Sequence[Model]) -> list[Entry]:
    """The lines of models, each with the spread over those that were trained and evaluated alike but for their seed."""
    alike: dict[str, list[Entry]] = {}
    for model in models:
        alike.setdefault(_alike(model.record), []).append(entry_of(model))
    entries = []
    for shared, own in alike.items():
        counted = one_a_seed(own)
        over = mean_of([entry.robust for entry in counted])
        if over.sd is None:
            entries += own
        else:
            entries += [replace(e, over_seeds=over, seed_count=len(counted), alike=shared) for e in own]
    return entries


def one_a_seed(entries: Sequence[Entry]) -> list[Entry]:
    """Those that a mean over seeds counts, by seed and name: none that shares a network's seed with one before it."""
    counted: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: (entry.seeds, entry.name)):
        if all(entry.seeds != other.seeds and set(entry.seeds).isdisjoint(other.seeds) for other in counted):
            counted.append(entry)
    return counted


def mean_of(scores: Sequence[Value]) -> Value:
    """The mean of accuracies, with their spread."""
    spread = mean_sd([score.accuracy for score in scores])
    return Value(accuracy=spread.mean, sd=spread.sd)


def _alike(record: Record) -> str:
    """All that models of one recipe share, but for the seed, and the conditions of their evaluation."""
    made = record.recipe or record.weights_hash, record.preset, record.checkpoint, plain(record.training)
    images = record.data_hash, record.split, record.n, str(record.threat), record.suite, record.seed
    return json.dumps([made, plain(record.architecture), images, list(conditions_of(record).items())], sort_keys=True)


def web_link(text: str) -> str | None:
    """`text` if a reader may follow it, which is a stranger's: http(s) alone."""
    return text if text.startswith(("https://", "http://")) else None


def members_of(record: Record) -> int:
    """How many networks the model joins, 1 where its architecture does not say."""
    members = (record.architecture or {}).get("members")
    return members if isinstance(members, int) else 1


def describe(record: Record) -> str:
    """A model's network and recipe, as far as they are known: "WideResNet-28-10 (2x ensemble), ensemble2adv".

    The recipe of a published model is what its maker says, and said to be so.
    """
    network = None if record.architecture is None else architecture_text(record)
    recipe = f"said to be {record.recipe}" if record.recipe and board_of(record) is not None else record.recipe
    return ", ".join(part for part in (network, recipe) if part)


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Entries board by board: by rank, then those without, the most robust first, then the most accurate."""

    def place(entry: Entry) -> tuple[Any, ...]:
        threat = entry.threat.norm, entry.threat.eps
        rank = entry.rank is None, entry.rank or 0
        return entry.data_name, *threat, *rank, -entry.robust.accuracy, -entry.clean.accuracy, entry.name, entry.source

    return sorted(entries, key=place)


def attack_names(entries: Sequence[Entry]) -> list[str]:
    """Every attack that an entry has an accuracy for, in the order of families and steps."""
    return sorted({name for entry in entries for name in entry.attacks}, key=natural)


def to_csv(entries: Sequence[Entry]) -> str:
    """The table as CSV: accuracies are fractions with 4 decimals, as in leaderboard.csv."""
    attacks = attack_names(entries)
    partial = {name for entry in entries for name in entry.partial}
    head = (*FIELDS, *(key for name in attacks for key in _keys(name, partial)))
    return csv_text([head, *(_row(entry, attacks, partial) for entry in entries)])


def _row(entry: Entry, attacks: Sequence[str], partial: Collection[str]) -> tuple[object, ...]:
    values = (value_of(entry) for value_of in FIELDS.values())
    return (
        *(fraction(value) if isinstance(value, float) else value for value in values),
        *(cell for name in attacks for cell in _cells(entry, name, partial)),
    )


def _keys(attack: str, partial: Collection[str]) -> tuple[str, ...]:
    return (attack, f"{attack}_n") if attack in partial else (attack,)


def _cells(entry: Entry, attack: str, partial: Collection[str]) -> tuple[object, ...]:
    """The accuracy under an attack and, if it is among the `partial` ones, the number of images that it is of."""
    accuracy = entry.attacks.get(attack)
    n = "" if accuracy is None else entry.partial.get(attack, entry.n)
    return (fraction(accuracy), n) if attack in partial else (fraction(accuracy),)


def to_json(entries: Sequence[Entry]) -> str:
    """The table as JSON, unrounded: a list of objects with the CSV's fields, and the attacks' accuracies by name.

    `partial` holds the number of images of attacks that cover a part of them.
    """
    rows = [
        {key: value_of(entry) for key, value_of in FIELDS.items()}
        | {"attacks": entry.attacks, "partial": entry.partial}
        for entry in entries
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FIELDS: Mapping[str, Callable[[Entry], object]] = {
    "model": lambda e: e.name,
    "source": lambda e: e.source,
    "data_name": lambda e: e.data_name,
    "norm": lambda e: e.threat.norm,
    "eps": lambda e: e.threat.eps_text,
    "suite": lambda e: e.suite,
    "split": lambda e: e.split,
    "n": lambda e: e.n,
    "robust_accuracy": lambda e: e.robust.accuracy,
    "robust_ci_low": lambda e: e.robust.ci_low,
    "robust_ci_high": lambda e: e.robust.ci_high,
    "clean_accuracy": lambda e: e.clean.accuracy,
    "clean_ci_low": lambda e: e.clean.ci_low,
    "clean_ci_high": lambda e: e.clean.ci_high,
    "parameters": lambda e: e.parameters,
    "flops": lambda e: e.flops,
    "forward_passes": lambda e: e.forward_passes,
    "seeds": lambda e: seeds_text(e.seeds),
    "warnings": lambda e: "; ".join(f"{warning.name} ({warning.message})" for warning in e.warnings),
    "rank": lambda e: e.rank,
    "unranked": lambda e: "; ".join(e.reasons),
    "union_accuracy": lambda e: None if e.union is None else e.union.accuracy,
    "seeds_mean": lambda e: None if e.over_seeds is None else e.over_seeds.accuracy,
    "seeds_sd": lambda e: None if e.over_seeds is None else e.over_seeds.sd,
    "seeds_n": lambda e: e.seed_count,
    "verified": lambda e: e.verified,
    "page": lambda e: e.page,
    "link": lambda e: e.link,
}
