"""The optimizer of Algorithm 1."""

import torch

from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.training.presets import TrainingSettings


def sgd(model: Ensemble, settings: TrainingSettings) -> torch.optim.SGD:
    """SGD with momentum over the weights of all members."""
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
