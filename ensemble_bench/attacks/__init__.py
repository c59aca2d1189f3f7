"""Attacks by name: `get("pgd20")(model, x, y, threat, seed=0)` returns adversarial images."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ensemble_bench import registry
from ensemble_bench.attacks.engine import Attack
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError, UnknownNameError

__all__ = ["Attack", "get"]


def get(name: str, **settings: Any) -> Attack:
    """Attack `name`, its fields set by `settings`: ifgsmN, pgdN, marginN, apgdN, moraN, … for any N steps; blackbox.

    `ensemble-bench list attacks` shows them all. "torchattacks:NAME(argument=value, …)" and "art:NAME(…)" are attacks
    of these toolkits; "ifgsm20@art" is one of ours as a toolkit runs it. Raises UnknownNameError, which offers the
    nearest names.
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
    return attack


def _refused(
    name: str, make: Callable[..., Attack], given: tuple[int, ...], settings: Mapping[str, Any], error: TypeError
) -> EnsembleBenchError:
    """The error for settings that an attack does not take, which names those that it does."""
    try:
        known = {field.name for field in fields(make(*given))} - {"name", "steps"}
    except TypeError:
        return InvalidValueError(f"{name}: {error}")
    wrong = next((key for key in settings if key not in known), None)
    return (
        InvalidValueError(f"{name}: {error}") if wrong is None else UnknownNameError(f"setting of {name}", wrong, known)
    )
