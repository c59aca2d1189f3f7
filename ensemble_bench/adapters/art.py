"""Models for the Adversarial Robustness Toolbox (Nicolae et al. 2018)."""

from typing import Any

import torch
from torch import nn

from ensemble_bench.adapters.view import AttackView
from ensemble_bench.errors import InvalidValueError


def classifier(
    model: nn.Module,
    *,
    device: str | torch.device | None = None,
    input_shape: tuple[int, int, int] | None = None,
    nb_classes: int | None = None,
) -> Any:
    """Make an ART `PyTorchClassifier` of `model`: images in [0, 1], cross-entropy of its logits.

    Of an ensemble these logits are log p̄, so ART's loss gradient is the gradient of −log p̄_y. The classifier is
    for attacks: it leaves the mode and the gradients of `model` alone, and cannot train it.

    `device` ("cpu" or "cuda") is the model's own by default; naming another moves the model. `input_shape` (channel,
    row, column) and `nb_classes` are known of a model that `load` returned, and must be given for any other.
    Raises InvalidValueError where they are needed and missing.
    """
    from art.estimators.classification import PyTorchClassifier

    architecture = getattr(getattr(model, "info", None), "architecture", None)
    shape = input_shape or getattr(architecture, "image_shape", None)
    classes = nb_classes or getattr(architecture, "classes", None)
    if shape is None or classes is None:
        raise InvalidValueError(
            "input_shape and nb_classes are missing: a model that was not loaded from a checkpoint needs both, "
            "such as input_shape=(3, 32, 32), nb_classes=10"
        )
    own = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    wanted = torch.device(device) if device is not None else own
    return PyTorchClassifier(
        model=AttackView(model),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(shape),
        nb_classes=int(classes),
        clip_values=(0.0, 1.0),
        device_type="cpu" if wanted.type == "cpu" else "gpu",
    )
