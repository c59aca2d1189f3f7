"""Names that other packages register through entry points; nothing of a package is imported until one is used."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import Distribution, EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any

from ensemble_bench.errors import InvalidValueError

GROUPS: Mapping[str, str] = {
    "attack": "ensemble_bench.attacks",
    "recipe": "ensemble_bench.recipes",
    "backbone": "ensemble_bench.backbones",
    "data set": "ensemble_bench.datasets",
    "suite": "ensemble_bench.suites",
    "objective": "ensemble_bench.objectives",
    "preset": "ensemble_bench.presets",
}
# What a name stands for (of FACTORIES: what calling it returns), and the field of that which holds the name.
TYPES: Mapping[str, tuple[str, str | None]] = {
    "attack": ("ensemble_bench.attacks.engine.attack:Attack", "name"),
    "recipe": ("ensemble_bench.registry.recipes:Recipe", "name"),
    "backbone": ("torch.nn:Module", None),
    "data set": ("ensemble_bench.data.source:DataSource", "dataset"),
    "suite": ("ensemble_bench.registry.suites:Suite", "name"),
    "objective": ("collections.abc:Callable", None),
    "preset": ("ensemble_bench.training.presets:Preset", "name"),
}
FACTORIES = ("attack", "backbone", "data set")
# Samples, leaderboards and the site's CSV have a column for each attack beside these; their others have an underscore.
RESERVED = (
    *("id", "label", "clean", "model", "suite", "split", "n", "threat", "recipe", "preset", "checkpoint", "seeds"),
    *("dataset", "norm", "eps", "parameters", "flops", "precision", "tree", "warnings", "record", "smaller-eps"),
    *("rank", "unranked", "verdict", "source", "verified", "page", "link"),
)


@functools.cache
def _entries() -> Mapping[str, Mapping[str, tuple[EntryPoint, ...]]]:
    """Entry points by kind and name, sorted; where several have one name, they clash. Read once."""
    installed = entry_points()
    found: dict[str, dict[str, tuple[EntryPoint, ...]]] = {kind: {} for kind in GROUPS}
    for kind, group in GROUPS.items():
        for entry in sorted(installed.select(group=group), key=lambda entry: (entry.name, _package(entry).name)):
            found[kind][entry.name] = (*found[kind].get(entry.name, ()), entry)
    return found


def names(kind: str) -> list[str]:
    """Names of a kind that other packages register; none of a kind that they cannot add to."""
    return list(_entries().get(kind, ()))


def origin(kind: str, name: str) -> str:
    """The package that registers a name, with its version; several, joined by "and", where they clash."""
    packages = map(_package, _entries()[kind][name])
    return " and ".join(f"{package.name} {package.version}" for package in packages)


def versions() -> dict[str, str]:
    """Version of every package that registers a name."""
    entries = (entry for by_name in _entries().values() for several in by_name.values() for entry in several)
    return {package.name: package.version for package in map(_package, entries)}


def check(kind: str, name: str, *, built_in: bool) -> None:
    """Raise InvalidValueError unless one package alone registers the name, and it is one that can be typed."""
    if built_in or len(_entries()[kind][name]) > 1:
        ours = "ensemble-bench itself and " if built_in else ""
        raise InvalidValueError(f"{kind} {name!r} is registered by {ours}{origin(kind, name)}: uninstall one of them")
    rule, pattern = "letters, digits, _ and -, a letter first", r"[A-Za-z][A-Za-z0-9_-]*"
    if kind == "attack":  # digits at its end would be its number of steps
        rule, pattern = "letters, digits and -, a letter first and last", r"[A-Za-z]([A-Za-z0-9-]*[A-Za-z])?"
        if name in RESERVED:
            raise InvalidValueError(
                f"attack {name!r} of {origin(kind, name)} cannot be used: tables have such a column"
            )
    if not re.fullmatch(pattern, name):
        raise InvalidValueError(f"{kind} {name!r} of {origin(kind, name)} cannot be used: expected {rule}")


def load(kind: str, name: str) -> Any:
    """Import what a checked name stands for; it, or what it makes, bears that name.

    Raises InvalidValueError, naming the package, where the import fails or finds something else.
    """
    (entry,) = _entries()[kind][name]
    what = f"{kind} {name!r} of {origin(kind, name)}"
    try:
        found = entry.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InvalidValueError(f"{what} cannot be loaded from {entry.value!r}: {reason}") from error
    return _factory(kind, name, what, found) if kind in FACTORIES else _named(kind, name, what, found)


def _factory(kind: str, name: str, what: str, found: Any) -> Callable[..., Any]:
    """`found`, whose arguments and results are checked."""
    if not callable(found):
        raise InvalidValueError(f"{what} is {found!r}: expected something to call")

    @functools.wraps(found, updated=())
    def make(*args: Any, **settings: Any) -> Any:
        try:
            inspect.signature(found).bind(*args, **settings)
        except (TypeError, ValueError) as error:
            raise InvalidValueError(f"{what}: {error}") from None
        called = f"{name}{args[0]}" if kind == "attack" and args else name
        return _named(kind, called, what, found(*args, **settings))

    return make


def _named(kind: str, name: str, what: str, found: Any) -> Any:
    """`found` under the name that users type, which results are filed under."""
    expected, field = TYPES[kind]
    if not isinstance(found, resolve_name(expected)):
        raise InvalidValueError(f"{what} gives {found!r}: expected {expected.replace(':', '.')}")
    return found if field is None or getattr(found, field) == name else replace(found, **{field: name})


def _package(entry: EntryPoint) -> Distribution:
    assert entry.dist is not None  # entry points that were found in an installed package
    return entry.dist
