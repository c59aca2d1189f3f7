"""Rows: the runs that are alike but for their seed, under a label that names all that differs from the preset."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ensemble_bench.records import CROSSED
from ensemble_bench.records.threat import Threat
from ensemble_bench.reports.groups import Run, place

# Of what runs of one label differ in, so much is named; longer values go by a hash.
NAMED, LONGEST = 4, 24
OPPOSITES = {"trained at two commits": "trained at one commit"}


R = TypeVar("R", bound=Run)


@dataclass(frozen=True, kw_only=True)
class Row(Generic[R]):
    """Runs that differ in their seed alone, seeds ascending, each seed once.

    `again` are further runs of these seeds, or that share one with them, which no mean counts. `look` names the row's
    line in figures: the recipe, or the label, where another row of the recipe stands before it.
    """

    label: str
    recipe: str
    look: str
    runs: tuple[R, ...]
    again: tuple[R, ...]

    def every(self) -> Iterator[tuple[str, R]]:
        """Every run with the label of its own row; a further one of a seed is told apart by its name."""
        yield from ((self.label, run) for run in self.runs)
        yield from ((f"{self.label} (again: {run.tag})", run) for run in self.again)

    def doubled(self) -> Iterator[tuple[R, list[R]]]:
        """Every run whose seeds further ones have, with these."""
        for run in self.runs:
            others = [other for other in self.again if _share_seeds(run, other)]
            if others:
                yield run, others


def rows_of(runs: Iterable[R]) -> list[Row[R]]:
    """Collect runs that are alike into rows, in the paper's order of recipes; unchanged presets come first."""
    alike: dict[tuple[str, str, str], list[R]] = {}
    for run in sorted(runs, key=lambda run: (place(run.recipe), run.recipe, run.seeds, run.preference, run.tag)):
        alike.setdefault((run.recipe, run.suffix, _text(identity_of(run))), []).append(run)
    groups = sorted(alike.values(), key=lambda own: _order(own[0]))
    rows, looks = [], set[str]()
    for label, own in zip(_labels([own[0] for own in groups]), groups, strict=True):
        kept, again = list[R](), list[R]()
        for run in own:
            (again if any(_share_seeds(run, other) for other in kept) else kept).append(run)
        recipe = own[0].recipe
        rows.append(
            Row(
                label=label,
                recipe=recipe,
                look=label if recipe in looks else recipe,
                runs=tuple(kept),
                again=tuple(again),
            )
        )
        looks.add(recipe)
    return rows


def identity_of(run: Run) -> dict[str, Any]:
    """Return all that has to agree for two runs of a recipe to count as seeds of one row.

    What was changed is not part of it, but all settings that come of it: recipes and presets change, too.
    """
    training = run.training
    if training is None:
        # Nothing is known but the name, which says the seed.
        name = run.run.rpartition("/")[2]
        stem, _, seed = name.rpartition("-s")
        return {"run": stem if stem and seed.isdigit() else name, **flat(run.alike)}
    # Training at two commits tells runs apart; at one, or from before it was written down, nothing is said.
    crossed = {"trained at two commits": True} if training.get("crossed_commits") else {}
    own = {key: value for key, value in training.items() if key not in ("changes", "settings", *CROSSED)}
    # The steps that a run took stand over those of its preset.
    return flat(training.get("settings", {})) | flat(run.alike) | flat(own | crossed)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, the keys joined by spaces."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        found |= flat(value, f"{name} ") if isinstance(value, Mapping) else {name: value}
    return found


def changes_text(changes: Mapping[str, Any]) -> list[str]:
    """Return what a run changed against its recipe and preset, a text each, the number of steps last."""
    first = ("objective", "match", "eps")
    ordered = sorted(changes, key=lambda key: (key == "steps", key not in first, key))
    texts = {key: _named(name, value) for key in ordered for name, value in flat({key: changes[key]}).items()}
    return list(texts.values())


def _order(run: Run) -> tuple[Any, ...]:
    changes = changes_of(run)
    return place(run.recipe), run.recipe, run.suffix, len(changes), changes, _text(identity_of(run))


def changes_of(run: Run) -> list[str]:
    """Return what is known to be changed in the training of a run, as texts."""
    return changes_text((run.training or {}).get("changes", {}))


def _labels(firsts: Sequence[Run]) -> list[str]:
    """Return a label for each row, given a run of it: what differs is added where recipe and changes do not tell."""
    heads = [", ".join((run.recipe, *changes_of(run))) for run in firsts]
    # Beside a training that is known, of one that is not there is nothing more to say.
    named = [(head + run.suffix, run.training is None) for head, run in zip(heads, firsts, strict=True)]
    labels = []
    for head, run, (name, unknown), more in zip(
        heads, firsts, named, apart(named, list(map(identity_of, firsts))), strict=True
    ):
        start = ["training not recorded"] if unknown and (name, False) in named else []
        labels.append(", ".join((head, *start, *more[:NAMED])) + run.suffix)
    return [
        label if labels.count(label) == 1 else f"{label} ({run.tag})" for label, run in zip(labels, firsts, strict=True)
    ]


def apart(names: Sequence[Any], abouts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return, for each of `names`, its values in `abouts` where those of the same name differ, as texts."""
    return [
        _unlike(about, [other for other, same in zip(abouts, names, strict=True) if same == name])
        for about, name in zip(abouts, names, strict=True)
    ]


def _unlike(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for other in others for key in other)
    return [_named(key, own.get(key)) for key in keys if any(other.get(key) != own.get(key) for other in others)]


def _named(key: str, value: Any) -> str:
    """Return "200 steps", "eps 4/255", "no crop", "learning rate 0.1"; of hashes the first digits, as elsewhere."""
    if key in ("steps", "parameters"):
        return f"{value} {key}"
    if value is None or value is False:
        return OPPOSITES.get(key, f"no {key}")
    if value is True:
        return key
    if key == "eps" and isinstance(value, float):
        return f"eps {Threat(norm='linf', eps=value).eps_text}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text.startswith("sha256:"):
        return f"{key} {text.removeprefix('sha256:')[:8]}"
    return f"{key} {text if len(text) <= LONGEST else hashlib.sha256(_text(value).encode()).hexdigest()[:8]}"


def _share_seeds(run: Run, other: Run) -> bool:
    """Whether no mean may count both: they are of one seed, or have a network of one in common."""
    return run.seeds == other.seeds or not set(run.seeds).isdisjoint(other.seeds)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
