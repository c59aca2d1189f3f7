"""Attacks by name: `get("pgd20")(model, x, y, threat, seed=0)` returns adversarial images."""

from typing import Any

from ensemble_bench import registry
from ensemble_bench.attacks.attack import Attack

__all__ = ["Attack", "get"]


def get(name: str, **settings: Any) -> Attack:
    """Attack `name`, its fields set by `settings`: ifgsmN, pgdN, marginN, apgdN, apgd-dlrN for any N steps; blackbox.

    Raises UnknownNameError, which offers the nearest names. Example: `get("pgd20", stop_early=False)`.
    """
    family, steps = registry.split_steps(name)
    make = registry.resolve("attack", family)
    attack: Attack = make(**settings) if steps is None else make(steps, **settings)
    return attack
