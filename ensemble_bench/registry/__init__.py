"""Names that users type: what each stands for and where it lives. Importing this imports nothing heavy."""

from ensemble_bench.registry.names import (
    ATTACKS,
    BACKBONES,
    DATASETS,
    IMPLEMENTATIONS,
    KINDS,
    MODEL_SOURCES,
    PRESETS,
    RECIPES,
    SUITES,
    TOOLKITS,
    check,
    names,
    resolve,
    split_implementation,
    split_steps,
    split_suite,
)

__all__ = [
    "ATTACKS",
    "BACKBONES",
    "DATASETS",
    "IMPLEMENTATIONS",
    "KINDS",
    "MODEL_SOURCES",
    "PRESETS",
    "RECIPES",
    "SUITES",
    "TOOLKITS",
    "check",
    "names",
    "resolve",
    "split_implementation",
    "split_steps",
    "split_suite",
]
