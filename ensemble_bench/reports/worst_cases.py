"""Rows of a comparison: models that differ by their seed alone, attacked alike, and what each withstood."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.errors import RecordError
from ensemble_bench.records import Record, identify, read_samples, withstood
from ensemble_bench.records.conditions import conditions_of
from ensemble_bench.records.contrasts import MIN_SEEDS, Robust
from ensemble_bench.records.statistics import mean_sd, wilson_around
from ensemble_bench.records.table import Value
from ensemble_bench.records.text import carried_eps, seeds_text
from ensemble_bench.reports.alike import NAMED, apart, flat, rows_of
from ensemble_bench.reports.alike import Row as RowOfSeeds
from ensemble_bench.reports.groups import Group, OfScored, Scored, group_of, grouped, headline_models


@dataclass(frozen=True, kw_only=True)
class Scores(OfScored):
    """The images of one model, ids ascending, and whether each withstood its evaluations under a suite.

    Of a model that answers at random `robust` holds the share of draws that are right. Of a family all models have
    equally many `evaluations`; `scored` is the first of them. `suffix` names preset and weights, where models of the
    family have several.
    """

    ids: NDArray[np.int64] = field(compare=False)
    robust: Robust = field(compare=False)
    evaluations: int = 1
    suffix: str = ""

    @property
    def record(self) -> Record:
        """The record of its first evaluation."""
        return self.scored.record

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.ids)

    @property
    def alike(self) -> Mapping[str, Any]:
        """As in tables, the part of the model, and what it costs."""
        record = self.record
        return {**self.scored.alike, "part": record.view, "parameters": record.parameters, "flops": record.flops}

    @property
    def preference(self) -> tuple[Any, ...]:
        """The most images, and then as in tables: the folder nearest to the root stands."""
        return -self.images, *self.scored.preference


@dataclass(frozen=True, kw_only=True)
class Row(RowOfSeeds[Scores]):
    """Models of one recipe that differ by their seed alone, no two with a seed in common."""

    @property
    def parameters(self) -> int:
        """Parameters of one of its models."""
        return self.runs[0].record.parameters

    @property
    def flops(self) -> int | None:
        """Floating-point operations of one forward pass of a model on one image, None where unknown."""
        return self.runs[0].record.flops

    def on(self, ids: NDArray[np.int64]) -> Robust:
        """Return, per seed and image of `ids`, whether the model withstood all; every model must have these images."""
        return np.array([model.robust[np.searchsorted(model.ids, ids)] for model in self.runs])

    def with_images(self, n: int) -> "Row":
        """Return the row with those of its models alone that have at least `n` images."""
        return replace(self, runs=tuple(model for model in self.runs if model.images >= n))

    @property
    def seeds(self) -> str:
        """The seeds of its models: "0, 1, 2", or "0+1, 2+3" of joined ones."""
        return ", ".join(seeds_text(model.record.seeds) for model in self.runs)


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that was attacked alike: one data set, threat and suite; of verdicts also one preset and checkpoint.

    `carried` is the smaller eps whose fallen images count as fallen, None without one; `changes` what the user changed
    in all of its runs, as JSON, but for `match`, of which a recipe has a row each. Where presets or weights differ,
    rows name theirs. `apart` tells families from each other that agree in all else that `where` says.
    """

    group: Group
    suite: str
    split: str
    carried: float | None
    changes: str
    rows: Mapping[str, tuple[Row, ...]]
    apart: str = ""

    @property
    def where(self) -> str:
        """Images, threat and suite, what was changed, and what else tells it from others."""
        first = "" if self.carried is None else f", after {replace(self.group.threat, eps=self.carried)}"
        changed = ", ".join(f"{name}={value}" for name, value in json.loads(self.changes).items())
        more = f"{f', with {changed}' if changed else ''}{f', {self.apart}' if self.apart else ''}"
        return f"{self.group}{first}, suite {self.suite}, {self.split} split{more}"


def families(records: Iterable[Record], *, suites: Iterable[str], recipes: Iterable[str]) -> list[Family]:
    """Collect the headline models of `recipes` under `suites` into families, and there into rows.

    The content of the data, a black-box set, the settings of every attack and the precision of their search are part of
    how a model was attacked, and so is the code: whether its tree was clean, and whether the training went on at
    another commit. Where a model was evaluated more often than another, as many of its evaluations count as the other
    has. Raises RecordError when the samples beside a record are missing or contradict it.
    """
    suites, recipes = frozenset(suites), frozenset(recipes)
    chosen = [r for r in headline_models(records) if r.suite in suites and r.recipe in recipes]
    return _families(chosen, trained_alike=True)


def attacked_alike(records: Iterable[Record]) -> list[Family]:
    """As `families`, of all `records`, however trained; a model of no recipe is a row of its own, under its name."""
    return _families(records, trained_alike=False)


def most_images(
    left: Sequence[Row], right: Sequence[Row]
) -> tuple[tuple[Row, ...], tuple[Row, ...], NDArray[np.int64]]:
    """Keep the models with the most images on which a test is possible, or else each row has one; and their images.

    One more run that was tried on ten images must not bring a comparison down to these ten.
    """
    rows = (*left, *right)
    counts = sorted({model.images for row in rows for model in row.runs}, reverse=True)
    for seeds in (MIN_SEEDS, 1):
        for n in counts:
            kept = [row.with_images(n) for row in rows]
            if all(len(row.runs) >= seeds for row in kept):
                return tuple(kept[: len(left)]), tuple(kept[len(left) :]), shared_images(kept, n)
    raise AssertionError("every row has a model")


def arrays_of(rows: Iterable[Row]) -> list[Robust]:
    """Return an array (seed, image) a row, of its models with the most images, for the variance between seeds."""
    alone = [most_images([row], []) for row in rows]
    return [row.on(ids) for (row,), _, ids in alone]


def shared_images(rows: Sequence[Row], n: int) -> NDArray[np.int64]:
    """Return the ids that all models of the rows have; raises RecordError where these are fewer than `n`."""
    models = [model for row in rows for model in row.runs]
    ids: NDArray[np.int64] = reduce(np.intersect1d, (model.ids for model in models))
    if len(ids) < n:
        a, b = models[0], next((m for m in models if not np.isin(models[0].ids, m.ids).all()), models[-1])
        raise RecordError(f"{b.record.path}: its samples are not the images of {a.record.path}, of the same split")
    return ids


def robust_accuracy(side: Sequence[Robust]) -> Value:
    """Robust accuracy of recipes, arrays (seed, image): the mean, its Wilson interval for the images, sd over seeds.

    There is a spread where it is of one recipe with two seeds or more.
    """
    accuracy = float(np.mean([recipe.mean() for recipe in side]))
    n = side[0].shape[1]
    low, high = wilson_around(accuracy, n)
    seeds = [float(robust.mean()) for robust in side[0]] if len(side) == 1 else []
    return Value(accuracy=accuracy, sd=mean_sd(seeds).sd if seeds else None, ci_low=low, ci_high=high)


def _families(records: Iterable[Record], *, trained_alike: bool) -> list[Family]:
    """A family of all that was attacked alike and, with `trained_alike`, is of one preset, changes and checkpoint."""

    def about(record: Record) -> dict[str, Any]:
        made = {"changes": _changes(record), "checkpoint": record.checkpoint} if trained_alike else {}
        blackbox = record.blackbox.hash if record.blackbox else None
        return {"data": record.data_hash, "black-box set": blackbox, **conditions_of(record), **made}

    def key(record: Record) -> tuple[Any, ...]:
        group = group_of(record) if trained_alike else replace(group_of(record), preset="")
        attacks_in_order = _json(list(about(record).items()))
        return group, record.suite, record.split, carried_eps(record) or 0.0, attacks_in_order

    same = list(grouped(records, key).values())
    found, abouts = [_family(own) for own in same], [about(own[0]) for own in same]
    names = [family.where for family in found]
    for i, texts in enumerate(apart(names, list(map(flat, abouts)))):
        if names.count(names[i]) > 1:
            told = texts[:NAMED]
            if not 0 < len(texts) <= NAMED:
                told.append(f"conditions {identify({'in order': list(abouts[i].items())})[:8]}")
            found[i] = replace(found[i], apart=", ".join(told))
    return found


def _family(alike: Sequence[Record]) -> Family:
    first, by_model = alike[0], list(grouped(alike, lambda record: (record.model, record.weights_hash)).values())
    budget = min(len(_widest(evaluations)) for evaluations in by_model)
    presets, changes = {group_of(record).preset for record in alike}, {_changes(record) for record in alike}
    names = [name for name in (_preset, _weights) if len({name(record) for record in alike} - {""}) > 1]
    rows: dict[str, tuple[Row, ...]] = {}
    for row in rows_of(_scores(_widest(evaluations)[:budget], names) for evaluations in by_model):
        rows[row.recipe] = (*rows.get(row.recipe, ()), Row(**vars(row)))
    return Family(
        group=replace(group_of(first), preset=presets.pop() if len(presets) == 1 else ""),
        suite=first.suite,
        split=first.split,
        carried=carried_eps(first),
        changes=changes.pop() if len(changes) == 1 else _json({}),
        rows=rows,
    )


def _changes(record: Record) -> str:
    changes = (record.training or {}).get("changes") or {}
    return _json({name: value for name, value in changes.items() if name != "match"})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _preset(record: Record) -> str:
    return f"preset {record.preset}" if record.preset else ""


def _weights(record: Record) -> str:
    return f"{record.checkpoint} weights" if record.checkpoint else ""


def _widest(evaluations: Sequence[Record]) -> list[Record]:
    """Evaluations of one model on the most images, each once: more on fewer images would attack some images oftener."""
    most = max(record.n for record in evaluations)
    once = {record.id: record for record in evaluations if record.n == most}
    return sorted(once.values(), key=lambda record: (record.seed, record.id))


def _scores(evaluations: Sequence[Record], names: Sequence[Callable[[Record], str]]) -> Scores:
    """Join evaluations of one model on the same images: what any of them broke is broken, the least share counts."""
    read = [_robust(record) for record in evaluations]
    ids, robust = read[0]
    for record, (found, stood) in zip(evaluations[1:], read[1:], strict=True):
        if not np.array_equal(found, ids):
            raise RecordError(f"{record.path}: its samples are not the images of {evaluations[0].path}")
        robust = np.minimum(robust, stood)
    scored, named = Scored(record=evaluations[0]), ", ".join(filter(None, (name(evaluations[0]) for name in names)))
    suffix = f" ({named})" if named else ""
    return Scores(scored=scored, ids=ids, robust=robust, evaluations=len(evaluations), suffix=suffix)


def _robust(record: Record) -> tuple[NDArray[np.int64], Robust]:
    """Ids of the record's images, ascending, and whether each withstood every attack, or its share of right draws."""
    path: Path | None = record.path
    if path is None:
        raise RecordError(f"{record.model}: the record was not read from a file, so its samples are nowhere")
    samples = read_samples(path.parent).sort_values("id")
    return samples["id"].to_numpy(dtype=np.int64), withstood(samples)
