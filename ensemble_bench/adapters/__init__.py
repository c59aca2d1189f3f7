"""Bridges to other toolkits; each imports its toolkit only when it is called.

eb.adapters.art.classifier(model)               an ART PyTorchClassifier, for attacks, metrics and trainers
eb.adapters.art.smoothed_classifier(model, …)   ART's randomized smoothing
eb.adapters.art.EngineAttack(estimator, …)      our attacks as an ART EvasionAttack
eb.adapters.art.EnsembleTrainer(classifier, …)  our training as an ART Trainer
eb.adapters.torchattacks.module(model)          what every torchattacks.* attack accepts
eb.adapters.robustbench.benchmark(model, …)     RobustBench's own benchmark()
eb.adapters.autoattack.pyautoattack_standard(…) AutoAttack itself, beside ours
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble_bench.adapters import art, autoattack, robustbench, torchattacks

__all__ = ["art", "autoattack", "robustbench", "torchattacks"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
