"""Groups: the runs that may stand in one table (one data set, preset and threat), and which of their weights do."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ensemble_bench.records import Record, Threat, folder_of, place_of
from ensemble_bench.records.conditions import conditions_of
from ensemble_bench.records.text import seeds_text
from ensemble_bench.registry import RECIPES

# Our recipes in the order of their rows.
ORDER = tuple(RECIPES)

T = TypeVar("T")
K = TypeVar("K", bound=Any)  # anything that sorts


@dataclass(frozen=True, kw_only=True, order=True)
class Group:
    """Data set, preset and threat: the rows of one table, the panel of one figure."""

    data_name: str
    preset: str
    threat: Threat

    def __str__(self) -> str:
        preset = f", preset {self.preset}" if self.preset else ""
        return f"{self.data_name}{preset}, {self.threat}"


class Run(Protocol):
    """The run of a row: the fields by which rows are ordered, labelled and told apart."""

    @property
    def recipe(self) -> str: ...  # noqa: D102

    @property
    def run(self) -> str: ...  # noqa: D102

    @property
    def seeds(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def tag(self) -> str:
        """A name that no other run has."""

    @property
    def where(self) -> str:
        """Name of its folder, with that of the one around it."""

    @property
    def training(self) -> Mapping[str, Any] | None:
        """How it was trained, as records hold it."""

    @property
    def suffix(self) -> str:
        """What the label says behind recipe and changes, such as " (last weights)"."""

    @property
    def alike(self) -> Mapping[str, Any]:
        """All that runs of one row share, but for recipe and training."""

    @property
    def preference(self) -> tuple[Any, ...]:
        """Of several runs of the same seed the lowest stands for it."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A record under the recipe whose row it belongs to; a model without a recipe stands for itself.

    `beside` says that its weights are not those of the run's headline checkpoint, which the label then names. `attacks`
    are those that a row compares, by default all of the record.
    """

    record: Record
    beside: bool = False
    attacks: tuple[str, ...] | None = None

    @property
    def recipe(self) -> str:
        """Recipe of the model, or its own name."""
        return self.record.recipe or self.record.model

    @property
    def run(self) -> str:
        """Name of the run that made the model."""
        return self.record.run

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the model; several where separately trained members were joined."""
        return self.record.seeds

    @property
    def where(self) -> str:
        """Name of the run's folder, with that of the one around it; the run's name where it has none."""
        folder = folder_of(self.record)
        return self.run if folder is None else f"{folder.parent.name}/{folder.name}"

    @property
    def tag(self) -> str:
        """A name that no other evaluation has: where its run lies, and the record's id."""
        return f"{self.where}, record {self.record.id[:8]}"

    @property
    def training(self) -> Mapping[str, Any] | None:
        """How the model was trained, None where its record does not say."""
        return self.record.training

    @property
    def suffix(self) -> str:
        """The weights, where they are not the run's headline checkpoint."""
        return f" ({self.record.checkpoint} weights)" if self.beside else ""

    @cached_property
    def alike(self) -> Mapping[str, Any]:
        """Checkpoint, architecture, the settings of the attacks, the black-box set among them, precision and tree."""
        record = self.record
        own = {} if record.recipe else {"weights": record.weights_hash}
        about = {"checkpoint": record.checkpoint, **own, "network": record.architecture or {}}
        return about | conditions_of(record, self.attacks)

    @property
    def preference(self) -> tuple[Any, ...]:
        """The folder nearest to the root stands, and of several evaluations of one model the lowest worst case."""
        path = folder_of(self.record) or Path()
        return len(path.parts), path.as_posix(), self.record.robust.accuracy, self.record.id


@dataclass(frozen=True, kw_only=True)
class OfScored:
    """What is made of the records of one model, and stands in rows as that model does."""

    scored: Scored

    @property
    def recipe(self) -> str:
        """Recipe of the model, or its own name."""
        return self.scored.recipe

    @property
    def run(self) -> str:
        """Name of the run that made the model."""
        return self.scored.run

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the model."""
        return self.scored.seeds

    @property
    def where(self) -> str:
        """Name of the run's folder."""
        return self.scored.where

    @property
    def tag(self) -> str:
        """A name that no other model has."""
        return self.scored.tag

    @property
    def training(self) -> Mapping[str, Any] | None:
        """How the model was trained, None where its records do not say."""
        return self.scored.training

    @property
    def suffix(self) -> str:
        """The weights, where they are not the run's headline checkpoint."""
        return self.scored.suffix


def group_of(record: Record) -> Group:
    """Return the group that a record belongs to."""
    return Group(data_name=record.data_name, preset=record.preset or "", threat=record.threat)


def told_apart(records: Iterable[Record]) -> list[Record]:
    """Give data sets of one name but other content names of their own: "mine (1a2b3c4d)", by the hash."""
    records, contents = list(records), dict[str, set[str]]()
    for record in records:
        contents.setdefault(record.data_name, set()).add(record.data_hash)
    return [
        record if len(contents[record.data_name]) == 1 else replace(record, data_name=_with_hash(record))
        for record in records
    ]


def _with_hash(record: Record) -> str:
    return f"{record.data_name} ({record.data_hash.removeprefix('sha256:')[:8]})"


def headlines(records: Iterable[Record]) -> dict[Hashable, str | None]:
    """Return the headline checkpoint of every run: its averaged weights, else the best, else the last.

    Of a run counts what there are records of.
    """
    found: dict[Hashable, str | None] = {}
    for record in records:
        home = home_of(record)
        found[home] = min(record.checkpoint, found.get(home, record.checkpoint), key=place_of)
    return found


def headline_models(records: Iterable[Record]) -> list[Record]:
    """Keep whole models, no member or logit average on its own, each run's headline checkpoint alone."""
    records = list(records)
    known = headlines(records)
    return [r for r in records if r.view is None and r.checkpoint == known[home_of(r)]]


def scored_models(records: Iterable[Record], suite: str | None = None) -> list[Scored]:
    """Whole models for the rows of tables: each run's headline checkpoint, under `suite` or all.

    Where a suite has not met that of a run, the next that it has met stands beside the headlines, named as such.
    """
    records = told_apart(records)
    known, chosen = headlines(records), []
    for own in grouped((r for r in records if r.view is None and suite in (None, r.suite)), lambda r: r.suite).values():
        met = headlines(own)
        chosen += [
            Scored(record=r, beside=r.checkpoint != known[home_of(r)]) for r in own if r.checkpoint == met[home_of(r)]
        ]
    return chosen


def last_beside(records: Iterable[Record], suite: str) -> list[Scored]:
    """The last weights under `suite` of runs whose headline checkpoint is their average."""
    records = told_apart(records)
    met = headlines(record for record in records if record.suite == suite)
    return [
        Scored(record=record, beside=True)
        for record in records
        if (record.view, record.suite, record.checkpoint) == (None, suite, "last")
        and met[home_of(record)] == "averaged"
    ]


def home_of(record: Record) -> Hashable:
    """Return what tells the run of a record from all others: its name, and its folder."""
    folder = folder_of(record)
    return record.run, None if folder is None else folder.resolve()


def group_columns(group: Group, carried: float | None = None) -> dict[str, str]:
    """Return the columns by which a CSV tells the tables of several groups apart."""
    columns = {"data_name": group.data_name, "preset": group.preset, "threat": str(group.threat)}
    return columns if carried is None else columns | {"carried_eps": replace(group.threat, eps=carried).eps_text}


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Collect `items` under their keys, keys ascending."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items(), key=lambda pair: pair[0]))


def all_seeds(runs: Iterable[Run]) -> str:
    """Return the seeds of several models, each once: "0, 1, 0+1"."""
    distinct = {run.seeds for run in runs if run.seeds}
    return ", ".join(seeds_text(seeds) for seeds in sorted(distinct, key=lambda s: (len(s), s)))


def place(recipe: str) -> int:
    """Return where a recipe stands in the paper's order; what is no recipe stands behind them all."""
    return ORDER.index(recipe) if recipe in ORDER else len(ORDER)
