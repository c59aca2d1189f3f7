"""The plan of a training run: every choice, checked before the first step and written to run.json."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from ensemble_bench import registry
from ensemble_bench.data import DataSource
from ensemble_bench.errors import InvalidValueError, UnknownNameError, check_whole
from ensemble_bench.models.architecture import Architecture, stride_for
from ensemble_bench.models.cost import match_width
from ensemble_bench.registry import Recipe
from ensemble_bench.registry.terms import LARGEST, SMALLEST
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.changes import replaced
from ensemble_bench.training.hardware import resolve_precision
from ensemble_bench.training.objectives import COMPARING, LOSSES, OBJECTIVES, name_of
from ensemble_bench.training.presets import Network, TrainingSettings, preset_of
from ensemble_bench.training.schedule import SCHEDULES

MOST_MEMBERS = 64
MATCHES = ("params", "paper", "flops")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Model, data and settings of a run; runs of equal plans end with equal weights on the same kind of device.

    `precision` is "float32" or "bf16"; `steps` is the length of the run; `match` is None for a recipe that widens
    nothing; `settings.train_attack` is used only by adversarial recipes. `changes` is all that the caller wanted other
    than recipe and preset have it: fields of TrainingSettings ("network.width" for one of its network), "steps",
    "members", "objective", "match" and "eps" by name. `function` is the objective where a caller gave one.
    """

    recipe: Recipe
    preset: str
    settings: TrainingSettings
    dataset: str
    data_name: str
    data_hash: str
    seed: int
    steps: int
    steps_per_epoch: int
    threat: ThreatModel
    architecture: Architecture
    match: str | None
    objective: str
    precision: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """All fields as values of JSON."""
        return {
            "recipe": self.recipe.name,
            "preset": self.preset,
            "dataset": self.dataset,
            "data_name": self.data_name,
            "data_hash": self.data_hash,
            "seed": self.seed,
            "seeds": [self.seed],
            "steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "threat": self.threat.as_dict(),
            "match": self.match,
            "objective": self.objective,
            "precision": self.precision,
            "architecture": self.architecture.as_dict(),
            "settings": self.settings.as_dict(),
            "changes": dict(self.changes),
        }

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.settings.learning_rate * SCHEDULES[self.settings.schedule](step, self.steps)

    def is_evaluated(self, step: int) -> bool:
        """Whether the weights after so many steps are an evaluation point."""
        return step > 0 and (step % self.settings.evaluate_every == 0 or step == self.steps)


def chosen_recipe(recipe: str | Recipe) -> Recipe:
    """The recipe of a name, or the one given; raises InvalidValueError for one that is named like another recipe."""
    if not isinstance(recipe, Recipe):
        found: Recipe = registry.resolve("recipe", recipe)
        return found
    if recipe.name in registry.names("recipe"):
        known = registry.resolve("recipe", recipe.name)
        if replace(recipe, description=known.description, look=known.look) != known:
            raise InvalidValueError(f"recipe is named {recipe.name!r}, as another one is: give it a name of its own")
    return recipe


def architecture_of(network: Network, source: DataSource) -> Architecture:
    """Return the single-member architecture of a network on a data set; raises InvalidValueError for its image size."""
    rows, columns = source.image_shape[1:]
    if min(rows, columns) < SMALLEST or max(rows, columns) > LARGEST:
        raise InvalidValueError(
            f"images of {source.name} are {rows}x{columns}: networks take {SMALLEST}x{SMALLEST} to {LARGEST}x{LARGEST} "
            "pixels, so resize them"
        )
    return Architecture(
        backbone=network.backbone,
        depth=network.depth,
        width=network.width,
        classes=len(source.classes),
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        stride=stride_for(network.backbone, source.image_shape),
    )


def resolve(
    recipe: Recipe,
    source: DataSource,
    *,
    preset: str,
    seed: int,
    device: torch.device,
    precision: str = "auto",
    max_steps: int | None = None,
    match: str = "params",
    members: int | None = None,
    objective: str | Callable[..., Any] | None = None,
    train_attack: str | None = None,
    eps: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainingPlan:
    """The plan of a run, some of the preset's `settings` replaced as in `changes.replaced`.

    `precision` is what the setting "auto" stands for, by default what the device computes in natively.
    Raises UnknownNameError for an unknown name, InvalidValueError for a value out of range.
    """
    offered = preset_of(preset).on(source.trains_like or source.dataset, recipe.name)
    asked_for = recipe
    recipe = _of_members(recipe, members)
    function = None if objective is None or isinstance(objective, str) else _function(objective)
    objective = recipe.objective if objective is None else name_of(objective)
    if function is None:
        registry.check("objective", objective)
    _check_choices(recipe, seed=seed, max_steps=max_steps, match=match, objective=objective)
    chosen, replacing = replaced(_settings(recipe, offered), _asked(settings or {}, train_attack))
    changed: dict[str, Any] = {}
    if recipe.members != asked_for.members:
        changed["members"] = recipe.members
    if objective != recipe.objective:
        changed["objective"] = objective
    if recipe.width_times > 1 and match != MATCHES[0]:
        changed["match"] = match
    if eps is not None and eps != source.default_eps:
        changed["eps"] = eps
    changed |= replacing
    steps, per_epoch = _length(chosen, len(source.split("train")))
    if max_steps is not None and max_steps < steps:
        steps = changed["steps"] = max_steps
    return TrainingPlan(
        recipe=recipe,
        preset=preset,
        settings=chosen,
        dataset=source.dataset,
        data_name=source.name,
        data_hash=source.fingerprint,
        seed=seed,
        steps=steps,
        steps_per_epoch=per_epoch,
        threat=ThreatModel(norm="linf", eps=source.default_eps if eps is None else eps),
        architecture=_architecture(recipe, architecture_of(chosen.network, source), match),
        match=match if recipe.width_times > 1 else None,
        objective=objective,
        precision=resolve_precision(precision if chosen.precision == "auto" else chosen.precision, device),
        changes=changed,
        function=function,
    )


def _of_members(recipe: Recipe, members: int | None) -> Recipe:
    """The recipe with another number of members; raises InvalidValueError for one that has no such number."""
    if members is None or members == recipe.members:
        return recipe
    check_whole("members", members, least=1, most=MOST_MEMBERS)
    if recipe.width_times > 1:
        raise InvalidValueError(f"members is {members}: {recipe.name} is one wider network; choose ensemble2adv")
    if members == 1 and (recipe.gated or recipe.attacked == "members"):
        raise InvalidValueError(f"members is 1: {recipe.name} needs at least 2")
    return replace(recipe, members=members)


def _function(objective: object) -> Callable[..., Any]:
    """An objective that is a function of the caller's; raises InvalidValueError for none, or one named like ours."""
    expected = "expected a name or a function of (model, x, x_adv, y)"
    if not callable(objective) or isinstance(objective, type | nn.Module):
        raise InvalidValueError(f"objective is a {type(objective).__name__}: {expected}")
    try:
        inspect.signature(objective).bind(None, None, None, None)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"objective is {name_of(objective)!r}, which takes others ({error}): {expected}"
        ) from None
    if (name := name_of(objective)) in registry.names("objective") and OBJECTIVES.get(name) is not objective:
        raise InvalidValueError(f"objective is a function called {name!r}, as another objective is: rename it")
    return objective


def _settings(recipe: Recipe, settings: TrainingSettings) -> TrainingSettings:
    """The preset's settings, some replaced by the recipe's own."""
    known = [field.name for field in fields(TrainingSettings)]
    for name in recipe.settings:
        if name not in known:
            raise UnknownNameError(f"setting of recipe {recipe.name!r}:", name, known)
    return replace(settings, **recipe.settings)


def _asked(settings: Mapping[str, Any], train_attack: str | None) -> Mapping[str, Any]:
    """The settings asked for, the attack among them."""
    if train_attack is None:
        return settings
    if settings.get("train_attack", train_attack) != train_attack:
        raise InvalidValueError(f"train_attack is {train_attack!r} and {settings['train_attack']!r}: give it once")
    return {**settings, "train_attack": train_attack}


def _length(settings: TrainingSettings, n: int) -> tuple[int, int]:
    """Steps of a training on `n` images, and those of an epoch; raises InvalidValueError if there is not one."""
    per_epoch = n // settings.batch_size
    if per_epoch < 1:
        raise InvalidValueError(f"batch_size is {settings.batch_size}: there are {n} training images")
    steps = settings.steps if settings.steps is not None else round((settings.epochs or 0) * per_epoch)
    if steps < 1:
        raise InvalidValueError(f"epochs is {settings.epochs}: less than a step, of which an epoch has {per_epoch}")
    return steps, per_epoch


def _architecture(recipe: Recipe, single: Architecture, match: str) -> Architecture:
    """The single network, widened or multiplied by the recipe."""
    if recipe.width_times > 1:
        return replace(single, width=match_width(single, times=recipe.width_times, by=match))
    return replace(single, members=recipe.members, gated=recipe.gated)


def _check_choices(recipe: Recipe, *, seed: int, max_steps: int | None, match: str, objective: str) -> None:
    check_whole("seed", seed)
    if max_steps is not None:
        check_whole("max_steps", max_steps, least=1)
    if match not in MATCHES:
        raise UnknownNameError("match", match, MATCHES)
    if objective in COMPARING and not recipe.adversarial:
        raise InvalidValueError(f"objective is {objective!r}: {recipe.name} attacks nothing that it could compare with")
    if recipe.gated and objective in LOSSES and objective != "ensemble":
        raise InvalidValueError(f"objective is {objective!r}: the gate of {recipe.name} learns only from 'ensemble'")
    if recipe.members < 2 and objective == "adp":
        raise InvalidValueError(f"objective is 'adp': {recipe.name} has one member, adp needs at least two members")


def differences(wanted: Mapping[str, Any], existing: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines such as "seed is 1 there, 0 here", one for every value of `wanted` that `existing` has otherwise or lacks.

    Nested objects are compared key by key: "settings.steps is …".
    """
    lines = []
    for key, value in wanted.items():
        other = existing.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            lines += differences(value, other, f"{prefix}{key}.")
        elif value != other:
            lines.append(f"{prefix}{key} is {other!r} there, {value!r} here")
    return lines
