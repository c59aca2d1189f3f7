"""Groups: the runs that may stand in one table (one data set, preset and threat), in the paper's order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ensemble_bench.records import Record, Threat
from ensemble_bench.records.text import seeds_text
from ensemble_bench.registry import RECIPES

# Our recipes in the order of their rows.
ORDER = tuple(RECIPES)
# Checkpoints that stand in tables: a run's best one, and a model from elsewhere.
BEST = ("best", None)


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
    def tag(self) -> str: ...  # noqa: D102


R = TypeVar("R", bound=Run)
T = TypeVar("T")
K = TypeVar("K", bound=Any)  # anything that sorts


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A record under the recipe whose row it belongs to; a model without a recipe stands for itself."""

    record: Record

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
    def tag(self) -> str:
        """A name that no other evaluation has."""
        return f"{self.run} ({self.record.id[:8]})"


def group_of(record: Record) -> Group:
    """Return the group that a record belongs to."""
    return Group(data_name=record.data_name, preset=record.preset or "", threat=record.threat)


def best_models(records: Iterable[Record]) -> list[Record]:
    """Keep whole models, no member or logit average on its own: best checkpoints, and what has none but itself."""
    return [record for record in records if record.view is None and record.checkpoint in BEST]


def group_columns(group: Group, carried: float | None = None) -> dict[str, str]:
    """Return the columns by which a CSV tells the tables of several groups apart."""
    columns = {"data_name": group.data_name, "preset": group.preset, "threat": str(group.threat)}
    return columns if carried is None else columns | {"carried_eps": replace(group.threat, eps=carried).eps_text}


def conditions(group: Group, runs: Iterable[Run], split: str, n: int | None, carried: float | None = None) -> str:
    """Return what a caption says of images, threat and seeds.

    `carried` is the smaller eps at which images fell that count as fallen here, None without one.
    """
    count = "" if n is None else f", n = {n}"
    seeds = all_seeds(runs)
    sentence = f"{group}, {split} split{count}{f', seeds {seeds}' if seeds else ''}."
    if carried is None:
        return sentence
    return f"{sentence} Images that fell at {replace(group.threat, eps=carried)} count as fallen under every attack."


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Collect `items` under their keys, keys ascending."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items(), key=lambda pair: pair[0]))


def by_recipe(runs: Iterable[R]) -> dict[str, list[R]]:
    """Collect `runs` under their rows' labels, in the paper's order, seeds ascending.

    The label is the recipe. Runs of one recipe that share their seeds differ in something else (a width, an objective),
    so that no mean over them makes sense: each of these stands under its run's name, or its tag if a run has several.
    """
    rows: dict[str, list[R]] = {}
    for run in sorted(runs, key=lambda run: (place(run.recipe), run.recipe, run.seeds, run.run)):
        rows.setdefault(run.recipe, []).append(run)
    labelled: dict[str, list[R]] = {}
    for recipe, members in rows.items():
        if len({run.seeds for run in members}) == len(members):
            labelled[recipe] = members
        else:
            names = [run.run for run in members]
            labelled |= {run.run if names.count(run.run) == 1 else run.tag: [run] for run in members}
    return labelled


def all_seeds(runs: Iterable[Run]) -> str:
    """Return the seeds of several models, each once: "0, 1, 0+1"."""
    distinct = {run.seeds for run in runs if run.seeds}
    return ", ".join(seeds_text(seeds) for seeds in sorted(distinct, key=lambda s: (len(s), s)))


def place(recipe: str) -> int:
    """Return where a recipe stands in the paper's order; what is no recipe stands behind them all."""
    return ORDER.index(recipe) if recipe in ORDER else len(ORDER)
