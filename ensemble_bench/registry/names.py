"""Look up, check and split the names that users type; imports nothing heavy, so that the command line answers fast.

This package's own names are those of the cards, recipes and suites; `plugins` adds those of other packages.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ensemble_bench.errors import InvalidValueError, UnknownNameError, shortened
from ensemble_bench.registry import plugins
from ensemble_bench.registry.cards import (
    ATTACKS,
    BACKBONES,
    DATASETS,
    IMPLEMENTATIONS,
    OBJECTIVES,
    PRESETS,
    TOOLKITS,
    Card,
)
from ensemble_bench.registry.recipes import RECIPES
from ensemble_bench.registry.suites import SUITES, Suite

# Models from elsewhere, named source:NAME: modules with meta(name) and load_model(name, *, folder, data).
MODEL_SOURCES: Mapping[str, str] = {
    "hf": "ensemble_bench.adapters.huggingface",
    "robustbench": "ensemble_bench.adapters.robustbench_zoo",
    "timm": "ensemble_bench.adapters.timm",
    "torchvision": "ensemble_bench.adapters.torchvision",
    "zoo": "ensemble_bench.submissions.zoo",
}
MOST_STEPS = 999_999_999
"""Of an attack; it could not be waited for."""
BLACKBOX = "blackbox"
WITHOUT_BLACKBOX = f"-{BLACKBOX}"
"""Ending of a suite's name, as in "strongest-blackbox", that leaves its black-box attack out."""
KINDS: Mapping[str, Mapping[str, Any]] = {
    "recipe": RECIPES,
    "preset": PRESETS,
    "data set": DATASETS,
    "suite": SUITES,
    "backbone": BACKBONES,
    "attack": ATTACKS,
    "objective": OBJECTIVES,
}


def names(kind: str) -> list[str]:
    """Names of a kind ("recipe", "preset", "data set", "suite", "attack", …; see KINDS), in the order to list them."""
    return list(dict.fromkeys([*KINDS[kind], *plugins.names(kind)]))


def check(kind: str, name: str) -> str:
    """Return `name`, or raise UnknownNameError that offers the nearest names; imports nothing heavy.

    Raises InvalidValueError, naming the packages, for a name that several register.
    """
    if not isinstance(name, str):
        raise UnknownNameError(kind, name, names(kind))
    if name in plugins.names(kind):
        plugins.check(kind, name, built_in=name in KINDS[kind])
    elif name not in KINDS[kind]:
        raise UnknownNameError(kind, name, names(kind))
    return name


def resolve(kind: str, name: str) -> Any:
    """Import what `name` stands for; in a table of several (recipes, presets, suites) the entry itself.

    Raises what check raises, and InvalidValueError for a name of another package that cannot be loaded.
    """
    if check(kind, name) not in KINDS[kind]:
        return plugins.load(kind, name)
    entry = KINDS[kind][name]
    if not isinstance(entry, Card):  # recipes and suites are data that stand in the table itself
        return entry
    module, _, attribute = entry.home.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    return found[name] if isinstance(found, Mapping) else found


def split_steps(name: str) -> tuple[str, int | None]:
    """Split an attack's name into its family and its number of steps: "pgd20" -> ("pgd", 20).

    An attack of another package takes a number or none. A number has one spelling: no zeros before it, no digits of
    other scripts. Raises UnknownNameError for a family that does not exist, or one without its number of steps, and
    InvalidValueError for more than MOST_STEPS steps, and as check.
    """
    added = plugins.names("attack")
    match = None if name in added else re.fullmatch(r"(.*?[A-Za-z])-?([1-9][0-9]*)", name)
    if match and len(match[2]) > len(str(MOST_STEPS)):
        raise InvalidValueError(f"attack is {shortened(repr(name))}: expected at most {MOST_STEPS} steps")
    family, steps = (match[1], int(match[2])) if match else (name, None)
    complete = family in ATTACKS and (steps is not None) == ATTACKS[family].takes_steps
    if not (complete or family in added):
        examples = [f"{f}20" if card.takes_steps else f for f, card in ATTACKS.items()]
        raise UnknownNameError("attack", name, [*examples, *added])
    return check("attack", family), steps


def split_implementation(name: str) -> tuple[str, str | None]:
    """Split "ifgsm20@art" into attack and implementation; None for an attack that says nothing of it.

    Raises UnknownNameError for an implementation that does not exist.
    """
    attack, at, implementation = name.partition("@")
    if not at:
        return name, None
    if implementation not in IMPLEMENTATIONS:
        raise UnknownNameError("implementation", implementation, IMPLEMENTATIONS)
    return attack, implementation


def split_suite(text: str) -> list[str]:
    """Split what `--suite` takes into suites and attacks: "quick+pgd50+torchattacks:DIFGSM(steps=20)".

    A plus sign inside parentheses belongs to an argument; "strongest-blackbox" is that suite without its black-box
    attack. Raises UnknownNameError for a part that is no suite and no attack, and InvalidValueError for one that is
    both or that clashes, or a suite that has no black-box attack to leave out; what stands behind a toolkit's colon is
    checked where the attack is made.
    """
    parts = re.split(r"\+(?![^(]*\))", text) if isinstance(text, str) else [""]
    if "" in parts:
        raise UnknownNameError("suite", text, names("suite"))
    for part in parts:
        if part.partition(":")[0] in TOOLKITS:
            continue
        if _lacks_blackbox(part):
            whole = part.removesuffix(WITHOUT_BLACKBOX)
            if BLACKBOX not in resolve("suite", whole).attacks:
                raise InvalidValueError(f"suite is {part!r}: {whole} has no black-box attack to leave out")
            continue
        is_suite, is_attack = part in names("suite"), _is_attack(part)
        if is_suite and is_attack:
            raise InvalidValueError(f"{part!r} is a suite and an attack: uninstall the package that adds one of them")
        if not is_attack:
            check("suite", part)
    return parts


def suite_of(text: str) -> Suite:
    """The suite called `text`, or the sum of the suites and attacks that plus signs join in it.

    A sum is a cascade where one of its suites is. Raises UnknownNameError for a name that is neither.
    """
    parts = [_part(part) for part in split_suite(text)]
    if len(parts) == 1:
        return parts[0]

    def joined(field: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in parts for name in getattr(part, field)))

    return Suite(
        name=text,
        attacks=joined("attacks"),
        cascade=any(part.cascade for part in parts),
        one_in=_one_in(parts),
        ensembles=tuple(name for name in joined("ensembles") if all(_leaves_out(part, name) for part in parts)),
        weighted=joined("weighted"),
        randomised=_randomised(parts),
        views=joined("views"),
        probe=any(part.probe for part in parts),
        recapture=any(part.recapture for part in parts),
        description=" and ".join(part.name for part in parts),
    )


def without_blackbox(text: str) -> str:
    """The suite `text` without its black-box attack, as `--suite` takes it: "strongest-blackbox" for "strongest".

    One that has none stays as it is. Raises what suite_of raises, and InvalidValueError where nothing is left.
    """
    left = []
    for part in split_suite(text):
        if part != BLACKBOX:
            lacks = _lacks_blackbox(part) or BLACKBOX not in _part(part).attacks
            left.append(part if lacks else f"{part}{WITHOUT_BLACKBOX}")
    if not left:
        raise InvalidValueError(f"suite is {text!r}: without the black-box attack nothing is left of it")
    return "+".join(left)


def _lacks_blackbox(part: str) -> bool:
    """Whether this is a suite's name with the ending that leaves out the black-box attack."""
    known = names("suite")
    return part.endswith(WITHOUT_BLACKBOX) and part not in known and part.removesuffix(WITHOUT_BLACKBOX) in known


def _part(name: str) -> Suite:
    """One part of a sum: a suite, one without its black-box attack, or a single attack."""
    if _lacks_blackbox(name):
        whole: Suite = resolve("suite", name.removesuffix(WITHOUT_BLACKBOX))
        left = tuple(attack for attack in whole.attacks if attack != BLACKBOX)
        # Another name and no strength: its worst case is no figure of the whole suite.
        about = f"{whole.description}, without black-box transfer"
        return replace(whole, name=name, attacks=left, strength=0, description=about)
    found: Suite = (
        resolve("suite", name) if name in names("suite") else Suite(name=name, attacks=(name,), description="")
    )
    return found


def _one_in(parts: Sequence[Suite]) -> dict[str, int]:
    """Of the attacks that no part runs on more images: on one in how many."""
    found: dict[str, int] = {}
    for name in {name: None for part in parts for name in part.one_in}:
        k = min(part.one_in.get(name, 1) for part in parts if name in part.attacks)
        found |= {name: k} if k > 1 else {}
    return found


def _randomised(parts: Sequence[Suite]) -> tuple[str, ...]:
    """Attacks on a model that answers at random, none if no part has such: of each these, or else all."""
    if not any(part.randomised for part in parts):
        return ()
    return tuple(dict.fromkeys(name for part in parts for name in part.randomised or part.attacks))


def _leaves_out(part: Suite, name: str) -> bool:
    """Whether a part of a sum does not run the attack on a single network."""
    return name in part.ensembles or name not in part.attacks


def _is_attack(name: str) -> bool:
    """Whether this names an attack; raises UnknownNameError for one by an implementation that does not exist."""
    attack, _ = split_implementation(name)
    try:
        split_steps(attack)
    except UnknownNameError:
        return False
    return True
