"""The running average of the weights during training, which is evaluated beside the weights after the last step."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ensemble_bench.models.calling import modes_kept
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.training.objectives import answers


def running_average(model: Ensemble, *, horizon: float) -> AveragedModel:
    """Exponential moving average of the weights of `model`, whose memory is about `horizon` steps (at least 1).

    It holds a copy of the model in `module`; `update_parameters(model)` after every step adds the new weights. Averages
    of weights generalise better (Izmailov et al. 2018), also in adversarial training (Rebuffi et al. 2021, arXiv
    2103.01946).
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(horizon, 1.0)))  # type: ignore[no-untyped-call]


def estimate_batch_norm(model: Ensemble, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of batch norm by their plain mean over `batches` of images.

    An average of weights computes features whose mean and variance no training step has seen. A batch may have a
    leading axis of members, each its own images. The mode of every submodule is restored.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean, to PyTorch
    with modes_kept(model), torch.no_grad():
        model.train()
        for x in batches:
            answers(model, x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
