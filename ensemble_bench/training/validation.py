"""Evaluation during training: accuracies on validation images, clean and under the attacks of curves.csv."""

import torch
from torch import Tensor, nn

from ensemble_bench import attacks
from ensemble_bench.data import ImageSet
from ensemble_bench.models.calling import frozen, logits_of
from ensemble_bench.records.curves import ATTACKS, ONE_STEP
from ensemble_bench.threat import ThreatModel

BATCH_SIZE = 500
# A single step of 2.5·eps, projected.
FGSM = "bim1"


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes in eval mode, in the images' precision; raises AttackError for logits that are not finite."""
    with frozen(model), torch.no_grad():
        return torch.cat([logits_of(model, part).argmax(dim=1) for part in torch.split(x, BATCH_SIZE)])


def validate(
    model: nn.Module, data: ImageSet, threat: ThreatModel, *, seed: int, precision: str, device: torch.device
) -> dict[str, float]:
    """Accuracy on `data` in [0, 1] by column of curves.csv: "clean", under one step, and under curves.ATTACKS."""
    x, y = (tensor.to(device) for tensor in data.batch(slice(None)))
    accuracy = {"clean": (predict(model, x) == y).double().mean().item()}
    for name, attack in {ONE_STEP: FGSM, **{name: name for name in ATTACKS}}.items():
        x_adv = attacks.get(attack)(
            model, x, y, threat, seed=seed, ids=data.ids, batch_size=BATCH_SIZE, precision=precision
        )
        accuracy[name] = (predict(model, x_adv) == y).double().mean().item()
    return accuracy
