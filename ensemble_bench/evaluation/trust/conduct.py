"""How the attack of a name goes about it, from its card: its family, what it climbs, whether it follows gradients."""

from collections.abc import Mapping
from typing import Any

from ensemble_bench import registry
from ensemble_bench.errors import UnknownNameError
from ensemble_bench.registry import Conduct


def family_of(name: str) -> tuple[str, int | None]:
    """Family and steps of one of our attacks, whoever runs it; of a toolkit's, its name without arguments, and None."""
    try:
        return registry.split_steps(registry.split_implementation(name)[0])
    except UnknownNameError:
        return name.partition("(")[0], None


def conduct_of(family: str) -> Conduct:
    """The card of a family of ours, or what is known of a toolkit's attack: nothing, for most."""
    return registry.ATTACKS.get(family) or registry.TOOLKIT_ATTACKS.get(family) or Conduct()


def gradient_free(name: str, settings: Mapping[str, Any]) -> str | None:
    """The warning that the attack raises when it breaks what others miss; None for one that follows gradients.

    Attacks of other packages say in their `settings` that they follow none.
    """
    unlisted = "gradient-free-breaks-more" if settings.get("gradient_free") else None
    return conduct_of(family_of(name)[0]).warning or unlisted


def is_white_box(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether this is an attack that follows gradients."""
    family, _ = family_of(name)
    is_attack = family in registry.names("attack") or family.partition(":")[0] in registry.TOOLKITS
    return is_attack and gradient_free(name, settings) is None
