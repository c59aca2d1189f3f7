"""Every public name and where it lives; importing this imports nothing heavy, so the command line answers fast.

The names of this package stand in literal tables; `plugins` adds those that other packages register.
"""

import importlib
import re
from collections.abc import Mapping
from typing import Any

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.registry import plugins

RECIPES: Mapping[str, str] = dict.fromkeys(
    (
        "baseline",
        "ensemble2",
        "ensemble4",
        "singleadv",
        "doubleadv",
        "ensemble2adv",
        "ensemble4adv",
        "separate2adv",
        "quadadv",
        "separate4adv",
        "gated2adv",
    ),
    "ensemble_bench.training.recipes:RECIPES",
)
PRESETS: Mapping[str, str] = dict.fromkeys(
    ("paper", "modern", "small", "tiny"), "ensemble_bench.training.presets:PRESETS"
)
DATASETS: Mapping[str, str] = {
    "digits": "ensemble_bench.data.digits:open_digits",
    "cifar10": "ensemble_bench.data.cifar10:open_cifar10",
}
SUITES: Mapping[str, str] = dict.fromkeys(
    ("paper", "paper500", "appendix", "quick", "autoattack", "strongest", "crosscheck"),
    "ensemble_bench.attacks.suites:SUITES",
)
BACKBONES: Mapping[str, str] = {
    "wrn": "ensemble_bench.models.backbones.wide_resnet:WideResNet",
    "preact_resnet18": "ensemble_bench.models.backbones.preact_resnet:PreActResNet18",
    "vgg16_bn": "ensemble_bench.models.backbones.vgg:VGG16BN",
    "small_cnn": "ensemble_bench.models.backbones.small_cnn:SmallCNN",
}
# An attack's name ends with its number of steps: pgd20, apgd100. "blackbox" takes none.
ATTACKS: Mapping[str, str] = {
    "ifgsm": "ensemble_bench.attacks.pgd:ifgsm",
    "bim": "ensemble_bench.attacks.pgd:bim",
    "pgd": "ensemble_bench.attacks.pgd:pgd_adam",
    "margin": "ensemble_bench.attacks.pgd:margin_pgd",
    "margin-t": "ensemble_bench.attacks.pgd:margin_t",
    "margin-doubled": "ensemble_bench.attacks.pgd:margin_doubled",
    "margin-plateau": "ensemble_bench.attacks.pgd:margin_plateau",
    "sweep": "ensemble_bench.attacks.sweep:sweep",
    "margin-odi": "ensemble_bench.attacks.odi:margin_odi",
    "apgd": "ensemble_bench.attacks.apgd:apgd_ce",
    "apgd-dlr": "ensemble_bench.attacks.apgd:apgd_dlr",
    "apgd-t": "ensemble_bench.attacks.apgd:apgd_t",
    "bypass": "ensemble_bench.attacks.members:bypass",
    "mean-member": "ensemble_bench.attacks.members:mean_member",
    "mean-member-doubled": "ensemble_bench.attacks.members:DOUBLED",
    "max-member": "ensemble_bench.attacks.members:max_member",
    "max-member-doubled": "ensemble_bench.attacks.members:DOUBLED",
    "clipped-member": "ensemble_bench.attacks.members:clipped_member",
    "clipped-member-doubled": "ensemble_bench.attacks.members:DOUBLED",
    "random-member": "ensemble_bench.attacks.members:random_member",
    "random-member-doubled": "ensemble_bench.attacks.members:DOUBLED",
    "member-transfer": "ensemble_bench.attacks.members:member_transfer",
    "mora": "ensemble_bench.attacks.mora:mora",
    "arc": "ensemble_bench.attacks.arc:arc",
    "eot": "ensemble_bench.attacks.pgd:eot",
    "fab-t": "ensemble_bench.attacks.foreign.external:fab_t",
    "square": "ensemble_bench.attacks.foreign.external:square",
    "blackbox": "ensemble_bench.attacks.blackbox.transfer:Transfer",
}
# Attacks of these are named toolkit:NAME(argument=value, …).
TOOLKITS = ("torchattacks", "art")
# Who runs an attack whose name ends so, on the same settings: ifgsm20@engine, ifgsm20@torchattacks, ifgsm20@art.
IMPLEMENTATIONS = ("engine", "torchattacks", "art")
# Models from elsewhere, named source:NAME: modules with meta(name) and load_model(name, *, folder, classes).
MODEL_SOURCES: Mapping[str, str] = {
    "robustbench": "ensemble_bench.adapters.robustbench_zoo",
    "timm": "ensemble_bench.adapters.timm",
    "zoo": "ensemble_bench.submissions.zoo",
}
KINDS: Mapping[str, Mapping[str, str]] = {
    "recipe": RECIPES,
    "preset": PRESETS,
    "data set": DATASETS,
    "suite": SUITES,
    "backbone": BACKBONES,
    "attack": ATTACKS,
}


def names(kind: str) -> list[str]:
    """Names of a kind ("recipe", "preset", "data set", "suite", "backbone", "attack"), in the order to list them."""
    return list(dict.fromkeys([*KINDS[kind], *plugins.names(kind)]))


def check(kind: str, name: str) -> str:
    """Return `name`, or raise UnknownNameError that offers the nearest names; imports nothing heavy.

    Raises InvalidValueError, naming the packages, for a name that several register.
    """
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
    module, _, attribute = KINDS[kind][name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    return found[name] if isinstance(found, Mapping) else found


def split_steps(name: str) -> tuple[str, int | None]:
    """Split an attack's name into its family and its number of steps: "pgd20" -> ("pgd", 20).

    An attack of another package takes a number or none. Raises UnknownNameError for a family that does not exist, or
    one without its number of steps, and InvalidValueError as check.
    """
    added = plugins.names("attack")
    match = None if name in added else re.fullmatch(r"(.*?[A-Za-z])-?(\d+)", name)
    family, steps = (match[1], int(match[2])) if match else (name, None)
    complete = family in ATTACKS and (steps is None) == (family == "blackbox")
    if steps == 0 or not (complete or family in added):
        shown = [f if f == "blackbox" else f"{f}20" for f in ATTACKS]
        raise UnknownNameError("attack", name, [*shown, *added])
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

    A plus sign inside parentheses belongs to an argument. Raises UnknownNameError for a part that is no suite and no
    attack, and InvalidValueError for one that is both or that clashes; what stands behind a toolkit's colon is checked
    where the attack is made.
    """
    parts = re.split(r"\+(?![^(]*\))", text)
    for part in parts:
        if part.partition(":")[0] in TOOLKITS:
            continue
        is_suite, is_attack = part in names("suite"), _is_attack(part)
        if is_suite and is_attack:
            raise InvalidValueError(f"{part!r} is a suite and an attack: uninstall the package that adds one of them")
        if not is_attack:
            check("suite", part)
    return parts


def _is_attack(name: str) -> bool:
    """Whether this names an attack; raises UnknownNameError for one by an implementation that does not exist."""
    attack, _ = split_implementation(name)
    try:
        split_steps(attack)
    except UnknownNameError:
        return False
    return True
