"""Attacks by name: `get("pgd20")(model, x, y, threat, seed=0)` returns adversarial images."""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ensemble_bench import registry
from ensemble_bench.attacks.engine import Attack, Chain
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError, UnknownNameError

__all__ = ["Attack", "get"]


def get(name: str, **settings: Any) -> Attack:
    """Attack `name`, its fields set by `settings`: ifgsmN, pgdN, marginN, apgdN, moraN, … for any N steps; blackbox.

    `ensemble-bench list attacks` shows them all. "torchattacks:NAME(argument=value, …)" and "art:NAME(…)" are attacks
    of these toolkits; "ifgsm20@art" is one of ours as a toolkit runs it. Raises UnknownNameError, which offers the
    nearest names, and InvalidValueError for a field that an attack of several stages sets in each.
    Example: `get("pgd20", stop_early=False)`.
    """
    if not isinstance(name, str):
        raise InvalidValueError(f"attack is {name!r}: expected a name, such as pgd20")
    if name.partition(":")[0] in registry.TOOLKITS:
        from ensemble_bench.attacks.foreign.external import parse

        if settings:
            raise InvalidValueError(f"{name}: its arguments stand in its name, {', '.join(settings)} cannot be set")
        external: Attack = parse(name)
        return external
    ours, implementation = registry.split_implementation(name)
    if implementation is not None:
        from ensemble_bench.attacks.foreign.crosscheck import crosscheck

        if settings:
            raise InvalidValueError(f"{name}: all run it on the same settings, {', '.join(settings)} cannot be set")
        return crosscheck(ours, implementation)
    family, steps = registry.split_steps(name)
    make = registry.resolve("attack", family)
    given = () if steps is None else (steps,)
    try:
        attack: Attack = make(*given, **settings)
    except TypeError as error:
        raise _refused(name, make, given, settings, error) from error
    if own := _own(attack, settings):
        raise InvalidValueError(f"{name}: {own} cannot be set, its stages have their own")
    return attack


def _own(attack: Attack, settings: Mapping[str, Any]) -> str | None:
    """The first of the settings that the stages of an attack do not have, because they say themselves what it is."""
    stages = attack.stages if isinstance(attack, Chain) else ()
    keys = (key for key in settings if key != "name")
    return next((k for k in keys if any(getattr(stage, k, settings[k]) != settings[k] for stage in stages)), None)


def _refused(
    name: str, make: Callable[..., Attack], given: tuple[int, ...], settings: Mapping[str, Any], error: TypeError
) -> EnsembleBenchError:
    """The error for settings that an attack does not take, which names those that it does."""
    try:
        attack = make(*given)
    except TypeError:
        return InvalidValueError(f"{name}: {error}")
    stage = next(iter(attack.stages)) if isinstance(attack, Chain) else attack
    parameters = inspect.signature(make).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key in {field.name for field in fields(stage)} - known - {"name", "steps"}:
        with contextlib.suppress(TypeError):
            setting = {key: getattr(stage, key)}
            known |= set() if _own(make(*given, **setting), setting) else {key}
    wrong = next((key for key in settings if key not in known), None)
    return (
        InvalidValueError(f"{name}: {error}") if wrong is None else UnknownNameError(f"setting of {name}", wrong, known)
    )
