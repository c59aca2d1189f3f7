"""Arguments of the attacks of a toolkit: checked against its class, the rest filled in from the threat model."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.threat import ThreatModel

# What toolkits call the number of steps of an attack.
STEPS = ("steps", "n_iter", "n_queries", "max_iter", "nb_iter", "num_iter_set", "n_steps", "max_iterations")
NORMS = {"inf": "linf", "linf": "linf", "2": "l2", "2.0": "l2", "l2": "l2"}


def threat_of(norm: Any, eps: float, *, choices: str) -> ThreatModel:
    """Threat model of a norm in any of the toolkits' spellings; raises InvalidValueError, naming `choices`."""
    if str(norm).lower() not in NORMS:
        raise InvalidValueError(f"norm is {norm!r}: choose {choices}")
    return ThreatModel(norm=NORMS[str(norm).lower()], eps=eps)


def parameters(attack: type) -> dict[str, inspect.Parameter]:
    """What the class takes beside the model, which comes first."""
    return dict(list(inspect.signature(attack).parameters.items())[1:])


def check(toolkit: str, attacks: Mapping[str, type], name: str, arguments: Mapping[str, Any]) -> int:
    """Return the steps that the attack takes (1 where it has no such notion).

    Raises UnknownNameError for an attack that the toolkit does not have, InvalidValueError for an argument that the
    attack does not take.
    """
    if name not in attacks:
        raise UnknownNameError(f"attack of {toolkit}", name, attacks)
    known = parameters(attacks[name])
    for argument in arguments:
        if argument not in known:
            raise InvalidValueError(
                f"{argument!r} is no argument of {toolkit}:{name}: choose from {', '.join(known) or 'none'}"
            )
    for argument in STEPS:
        if argument in known:
            steps = arguments.get(argument, known[argument].default)
            return steps if isinstance(steps, int) and steps > 0 else 1
    return 1


def complete(
    label: str,
    attack: type,
    arguments: Mapping[str, Any],
    *,
    fixed: Mapping[str, Any],
    defaults: Mapping[str, Any],
    step_size: str = "",
) -> dict[str, Any]:
    """Everything to call the class `attack` with: what the user gave, and of the rest what the class takes.

    `fixed` belongs to the threat model and the data: who gives something else there gets an InvalidValueError.
    `defaults` only fill gaps. `step_size` names an argument that the class chose for its own eps: where it is not
    given, it keeps its ratio to eps.
    """
    known = parameters(attack)
    for name, value in fixed.items():
        if name in known and name in arguments and not _same(arguments[name], value):
            raise InvalidValueError(
                f"{label}: {name} is {arguments[name]!r}, but the evaluation says {value!r}: leave it out"
            )
    filled = {name: value for name, value in {**defaults, **arguments, **fixed}.items() if name in known}
    if step_size in known and step_size not in arguments and "eps" in known:
        filled[step_size] = known[step_size].default * fixed["eps"] / known["eps"].default
    missing = [name for name, p in known.items() if p.default is p.empty and name not in filled]
    if missing:
        raise InvalidValueError(f"{label} needs {', '.join(missing)}: give it as {label}({missing[0]}=…)")
    return filled


def _same(given: Any, wanted: Any) -> bool:
    """Whether both say the same: numbers up to rounding, norms in any of the toolkits' spellings."""
    number = (int, float)
    if isinstance(given, number) and isinstance(wanted, number) and math.isclose(given, wanted, rel_tol=1e-9):
        return True
    norm = NORMS.get(str(given).lower())
    return given == wanted or (norm is not None and norm == NORMS.get(str(wanted).lower()))
