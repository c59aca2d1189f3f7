"""Names that users type: what each stands for and where it lives. Importing this imports nothing heavy."""

from ensemble_bench.registry.cards import (
    ATTACKS,
    BACKBONES,
    DATASETS,
    IMPLEMENTATIONS,
    OBJECTIVES,
    PRESETS,
    TOOLKIT_ATTACKS,
    TOOLKITS,
    AttackCard,
    Card,
    Conduct,
)
from ensemble_bench.registry.names import (
    BLACKBOX,
    KINDS,
    MODEL_SOURCES,
    check,
    names,
    resolve,
    split_implementation,
    split_steps,
    split_suite,
    suite_of,
    without_blackbox,
)
from ensemble_bench.registry.places import check_data, homeless, models_folder, told
from ensemble_bench.registry.recipes import RECIPES, Recipe
from ensemble_bench.registry.suites import SUITES, Suite

__all__ = [
    "ATTACKS",
    "BACKBONES",
    "BLACKBOX",
    "DATASETS",
    "IMPLEMENTATIONS",
    "KINDS",
    "MODEL_SOURCES",
    "OBJECTIVES",
    "PRESETS",
    "RECIPES",
    "SUITES",
    "TOOLKITS",
    "TOOLKIT_ATTACKS",
    "AttackCard",
    "Card",
    "Conduct",
    "Recipe",
    "Suite",
    "check",
    "check_data",
    "homeless",
    "models_folder",
    "names",
    "resolve",
    "split_implementation",
    "split_steps",
    "split_suite",
    "suite_of",
    "told",
    "without_blackbox",
]
