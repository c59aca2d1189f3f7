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
from ensemble_bench.records import CROSSED, Record, read_samples, withstood
from ensemble_bench.records.conditions import conditions_of
from ensemble_bench.records.contrasts import MIN_SEEDS, Robust
from ensemble_bench.records.decoding import plain
from ensemble_bench.records.statistics import mean_sd, wilson_around
from ensemble_bench.records.table import Value
from ensemble_bench.records.text import carried_eps, seeds_text
from ensemble_bench.reports.groups import Group, group_of, grouped, headline_models, place


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The images of one model, ids ascending, and whether each withstood its evaluations under a suite.

    Of a model that answers at random `robust` holds the share of draws that are right. Of a family all models have
    equally many `evaluations`; `record` is the first of them.
    """

    record: Record
    ids: NDArray[np.int64] = field(compare=False)
    robust: Robust = field(compare=False)
    evaluations: int = 1

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Models of one recipe that differ by their seed alone, no two with a seed in common; `label` names the row.

    `left_out` are runs whose seed another run of the row has.
    """

    recipe: str
    label: str
    models: tuple[Scores, ...]
    left_out: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters of one of its models."""
        return self.models[0].record.parameters

    @property
    def flops(self) -> int | None:
        """Floating-point operations of one forward pass of a model on one image, None where unknown."""
        return self.models[0].record.flops

    def on(self, ids: NDArray[np.int64]) -> Robust:
        """Return, per seed and image of `ids`, whether the model withstood all; every model must have these images."""
        return np.array([model.robust[np.searchsorted(model.ids, ids)] for model in self.models])

    @property
    def least(self) -> int:
        """The fewest images that one of its models has."""
        return min(model.images for model in self.models)

    def with_images(self, n: int) -> "Row":
        """Return the row with those of its models alone that have at least `n` images."""
        return replace(self, models=tuple(model for model in self.models if model.images >= n))

    @property
    def seeds(self) -> str:
        """The seeds of its models: "0, 1, 2", or "0+1, 2+3" of joined ones."""
        return ", ".join(seeds_text(model.record.seeds) for model in self.models)


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that was attacked alike: one data set, threat and suite; of verdicts also one preset, changed alike.

    `carried` is the smaller eps whose fallen images count as fallen, None without one; `changes` what the user changed
    in all of its runs, as JSON, but for `match`, of which a recipe has a row each. Where presets or changes differ,
    rows name theirs.
    """

    group: Group
    suite: str
    split: str
    carried: float | None
    changes: str
    rows: Mapping[str, tuple[Row, ...]]

    @property
    def where(self) -> str:
        """Images, threat and suite, and what was changed."""
        first = "" if self.carried is None else f", after {replace(self.group.threat, eps=self.carried)}"
        changed = ", ".join(f"{name}={value}" for name, value in json.loads(self.changes).items())
        return f"{self.group}{first}, suite {self.suite}, {self.split} split{f', with {changed}' if changed else ''}"


def families(records: Iterable[Record], *, suites: Iterable[str], recipes: Iterable[str]) -> list[Family]:
    """Collect the headline models of `recipes` under `suites` into families, and there into rows.

    A black-box set, the settings of every attack and the precision of their search are part of how a model was
    attacked, and so is the code: whether its tree was clean, and whether the training went on at another commit. Where
    a model was evaluated more often than another, as many of its evaluations count as the other has. Raises RecordError
    when the samples beside a record are missing or contradict it.
    """
    suites, recipes = frozenset(suites), frozenset(recipes)
    chosen = [r for r in headline_models(records) if r.suite in suites and r.recipe in recipes]
    alike = grouped(chosen, lambda record: (group_of(record).preset, _changes(record), *_attacked(record)))
    return [_family(records) for records in alike.values()]


def attacked_alike(records: Iterable[Record]) -> list[Family]:
    """As `families`, of all `records`, however trained; a model of no recipe is a row of its own, under its name."""
    return [_family(alike) for alike in grouped(records, _attacked).values()]


def most_images(
    left: Sequence[Row], right: Sequence[Row]
) -> tuple[tuple[Row, ...], tuple[Row, ...], NDArray[np.int64]]:
    """Keep the models with the most images on which a test is possible, or else each row has one; and their images.

    One more run that was tried on ten images must not bring a comparison down to these ten.
    """
    rows = (*left, *right)
    counts = sorted({model.images for row in rows for model in row.models}, reverse=True)
    for seeds in (MIN_SEEDS, 1):
        for n in counts:
            kept = [row.with_images(n) for row in rows]
            if all(len(row.models) >= seeds for row in kept):
                return tuple(kept[: len(left)]), tuple(kept[len(left) :]), shared_images(kept, n)
    raise AssertionError("every row has a model")


def shared_images(rows: Sequence[Row], n: int) -> NDArray[np.int64]:
    """Return the ids that all models of the rows have; raises RecordError where these are fewer than `n`."""
    models = [model for row in rows for model in row.models]
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


def _family(alike: Sequence[Record]) -> Family:
    first = alike[0]
    budget = min(len(_widest(evaluations)) for evaluations in grouped(alike, _model).values())
    presets, changes = {group_of(record).preset for record in alike}, {_changes(record) for record in alike}
    names = [name for name, differ in ((_preset, presets - {""}), (_changed, changes)) if len(differ) > 1]
    rows = {
        recipe: _labelled(recipe, [_row(recipe, same, budget) for same in grouped(ours, _made).values()], names)
        for recipe, ours in grouped(alike, lambda record: record.recipe or record.run).items()
    }
    return Family(
        group=replace(group_of(first), preset=presets.pop() if len(presets) == 1 else ""),
        suite=first.suite,
        split=first.split,
        carried=carried_eps(first),
        changes=changes.pop() if len(changes) == 1 else _json({}),
        rows=dict(sorted(rows.items(), key=lambda row: place(row[0]))),
    )


def _attacked(record: Record) -> tuple[Any, ...]:
    blackbox = record.blackbox.hash if record.blackbox else ""
    carried = carried_eps(record) or 0.0
    images = (record.split, record.data_hash, blackbox, carried)
    return (replace(group_of(record), preset=""), record.suite, *images, *conditions_of(record))


def _made(record: Record) -> tuple[str, int, int, str]:
    """Return what the models of one row share: how they were trained, what they cost, without a recipe the weights."""
    own = "" if record.recipe else record.weights_hash
    return _json(_training(record)), record.parameters, record.flops or 0, own


def _training(record: Record) -> Mapping[str, Any] | None:
    """How the model was trained; whether at one commit is a condition, which records from before do not name.

    Nor does anything depend on whether it was under one version and kind of processor: its record says so.
    """
    if record.training is None:
        return None
    return {name: value for name, value in plain(record.training).items() if name not in CROSSED}


def _model(record: Record) -> tuple[str, str]:
    return record.run, record.weights_hash


def _changes(record: Record) -> str:
    changes = (_training(record) or {}).get("changes") or {}
    return _json({name: value for name, value in changes.items() if name != "match"})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _row(recipe: str, same: Sequence[Record], budget: int) -> Row:
    """Score the models of a row, each by `budget` evaluations. Two of one seed, or of one network, count once."""
    models = [_scores(_widest(evaluations)[:budget]) for evaluations in grouped(same, _model).values()]
    models.sort(key=lambda model: (model.record.seeds, -model.images, model.record.run, model.record.id))
    kept: list[Scores] = []
    left_out: list[str] = []
    for model in models:
        taken = {seed for other in kept for seed in other.record.seeds}
        if taken.isdisjoint(model.record.seeds):
            kept.append(model)
        else:
            left_out.append(model.record.run)
    return Row(recipe=recipe, label=recipe, models=tuple(kept), left_out=tuple(left_out))


def _labelled(recipe: str, rows: Sequence[Row], names: Sequence[Callable[[Row], str]]) -> tuple[Row, ...]:
    """Name the rows of a recipe: by the recipe, by `names`, and where these are not enough by what tells rows apart."""
    texts = [", ".join(filter(None, (name(row) for name in names))) for row in rows]
    if len(set(texts)) < len(rows):
        apart = (_match, lambda row: f"{row.parameters} parameters", lambda row: row.models[0].record.run)
        found = next((t for t in ([name(row) for row in rows] for name in apart) if len(set(t)) == len(rows)), None)
        more = found or [row.models[0].record.model for row in rows]
        texts = [", ".join(filter(None, both)) for both in zip(texts, more, strict=True)]
    labels = [f"{recipe} ({text})" if text else recipe for text in texts]
    return tuple(replace(row, label=label) for row, label in zip(rows, labels, strict=True))


def _preset(row: Row) -> str:
    return f"preset {preset}" if (preset := group_of(row.models[0].record).preset) else ""


def _changed(row: Row) -> str:
    return ", ".join(f"{name}={value}" for name, value in json.loads(_changes(row.models[0].record)).items())


def _match(row: Row) -> str:
    """Return the cost that a wider network was matched on."""
    return f"match={(_training(row.models[0].record) or {}).get('match')}"


def _widest(evaluations: Sequence[Record]) -> list[Record]:
    """Evaluations of one model on the most images, each once: more on fewer images would attack some images oftener."""
    most = max(record.n for record in evaluations)
    once = {record.id: record for record in evaluations if record.n == most}
    return sorted(once.values(), key=lambda record: (record.seed, record.id))


def _scores(evaluations: Sequence[Record]) -> Scores:
    """Join evaluations of one model on the same images: what any of them broke is broken, the least share counts."""
    read = [_robust(record) for record in evaluations]
    ids, robust = read[0]
    for record, (found, stood) in zip(evaluations[1:], read[1:], strict=True):
        if not np.array_equal(found, ids):
            raise RecordError(f"{record.path}: its samples are not the images of {evaluations[0].path}")
        robust = np.minimum(robust, stood)
    return Scores(record=evaluations[0], ids=ids, robust=robust, evaluations=len(evaluations))


def _robust(record: Record) -> tuple[NDArray[np.int64], Robust]:
    """Ids of the record's images, ascending, and whether each withstood every attack, or its share of right draws."""
    path: Path | None = record.path
    if path is None:
        raise RecordError(f"{record.model}: the record was not read from a file, so its samples are nowhere")
    samples = read_samples(path.parent).sort_values("id")
    return samples["id"].to_numpy(dtype=np.int64), withstood(samples)
