"""ART classifiers of small models for tests, and everything about a model that an adapter has to leave alone."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from small_models import trained
from torch import Tensor, nn

import ensemble_bench as eb

SHAPE = {"input_shape": (1, 8, 8), "nb_classes": 10}


def classifier(model: nn.Module, **settings: Any) -> Any:
    return eb.adapters.art.classifier(model, **{**SHAPE, **settings})


def sgd(model: nn.Module, lr: float = 0.2, momentum: float = 0.9) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def untidy() -> eb.Ensemble:
    """A digits ensemble in mixed modes, partly frozen, with gradients of an earlier step."""
    model = trained(members=2)
    nn.functional.cross_entropy(model(torch.full((4, 1, 8, 8), 0.5)), torch.arange(4)).backward()
    model.train()
    model.members[1].eval()
    next(model.members[0].parameters()).requires_grad_(False)
    return model


def traces(model: nn.Module) -> list[Any]:
    """State of the model and of the global generators."""
    parameters = list(model.parameters())
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in parameters],
        [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters],
        {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
    ]


class FailsAt(nn.Module):
    """A model whose `calls`-th call raises; it counts from 1."""

    def __init__(self, model: nn.Module, calls: int) -> None:
        super().__init__()
        self.model, self.left = model, calls

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("out of order")
        logits: Tensor = self.model(x)
        return logits


def one_hot(y: Tensor) -> Any:
    return np.eye(10, dtype=np.float32)[y.numpy()]


def with_numpy_seeded(run: Callable[[], Any], seed: int = 0) -> Any:
    """Run what draws from NumPy's global generator, and put that back."""
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        return run()
    finally:
        np.random.set_state(state)
