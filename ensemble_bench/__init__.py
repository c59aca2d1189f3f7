"""ensemble-bench: adversarially trained ensembles, and a benchmark that leaves no doubt how robust they are.

    import ensemble_bench as eb
    model = eb.load("runs/ensemble2adv-digits-tiny-s0")
    result = eb.evaluate(model, dataset="digits", suite="paper")

Names load on first use, so that importing the package (and `ensemble-bench --help`) does not import torch.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble_bench import adapters, attacks, data, losses
    from ensemble_bench.evaluation.diagnostics import diagnose
    from ensemble_bench.evaluation.runner import evaluate
    from ensemble_bench.models.ensemble import Ensemble
    from ensemble_bench.models.sources import load
    from ensemble_bench.registry import Recipe, Suite
    from ensemble_bench.reports.comparison import compare
    from ensemble_bench.submissions.bundling import bundle
    from ensemble_bench.threat import ThreatModel
    from ensemble_bench.training.trainer import train

__all__ = [
    "Ensemble",
    "Recipe",
    "Suite",
    "ThreatModel",
    "adapters",
    "attacks",
    "bundle",
    "compare",
    "data",
    "diagnose",
    "evaluate",
    "load",
    "losses",
    "train",
]

_HOMES = {
    "Ensemble": "ensemble_bench.models.ensemble",
    "Recipe": "ensemble_bench.registry",
    "Suite": "ensemble_bench.registry",
    "ThreatModel": "ensemble_bench.threat",
    "bundle": "ensemble_bench.submissions.bundling",
    "compare": "ensemble_bench.reports.comparison",
    "diagnose": "ensemble_bench.evaluation.diagnostics",
    "evaluate": "ensemble_bench.evaluation.runner",
    "load": "ensemble_bench.models.sources",
    "train": "ensemble_bench.training.trainer",
}

try:
    __version__ = version("ensemble-bench")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"ensemble_bench.{name}")
    raise AttributeError(f"module 'ensemble_bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
