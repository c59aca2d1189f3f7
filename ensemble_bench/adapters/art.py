"""Models for the Adversarial Robustness Toolbox (Nicolae et al. 2018) and its attacks; our attacks and training for it.

eb.adapters.art.classifier(model)                           for ART's attacks, metrics and trainers
eb.adapters.art.EngineAttack(estimator, attack="mora100")   an attack of ours as an ART EvasionAttack
eb.adapters.art.EnsembleTrainer(classifier)                 Algorithm 1 as an ART Trainer
"""

import importlib
import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ensemble_bench.adapters import arguments as args
from ensemble_bench.adapters.view import AttackView, TrainingView
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.kinds import takes
from ensemble_bench.models.called import as_module
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import resolve_device

if TYPE_CHECKING:
    from ensemble_bench.adapters.art_attack import EngineAttack
    from ensemble_bench.adapters.art_trainer import EnsembleTrainer

__all__ = ["EngineAttack", "EnsembleTrainer", "attack", "check", "classifier", "smoothed_classifier"]

NORMS = {"linf": math.inf, "l2": 2}
# Classes that derive from ART's own, and so can only be made once ART is imported.
LAZY = {
    "EngineAttack": "ensemble_bench.adapters.art_attack",
    "EnsembleTrainer": "ensemble_bench.adapters.art_trainer",
}


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@takes
def classifier(
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    device: str | torch.device | None = None,
    input_shape: tuple[int, ...] | None = None,
    nb_classes: int | None = None,
) -> Any:
    """Make an ART `PyTorchClassifier` of `model`: images in [0, 1], cross-entropy of its logits.

    Of an ensemble these logits are log p̄, so ART's loss is −log p̄_y, in attacks and in training alike. What ART
    predicts and attacks leaves the mode and the gradients of `model` alone. With an `optimizer` of the model's
    parameters ART's trainers and `fit` can train it; without one, `fit` raises InvalidValueError. The model is looked
    at when it is first called (`AttackView`).

    `device` ("cpu" or "cuda") is the model's own by default; naming another moves the model. `input_shape` (channel,
    row, column) and `nb_classes` are known of a model that `load` returned, and must be given for any other.
    Raises InvalidValueError where they are needed and missing, for an optimizer of other parameters, and for a device
    that is not here.
    """
    from ensemble_bench.adapters.art_classifier import ViewClassifier

    return _estimator(ViewClassifier, model, optimizer, device, input_shape, nb_classes, entering=True)


@takes
def smoothed_classifier(
    model: nn.Module,
    *,
    scale: float,
    sample_size: int = 100,
    alpha: float = 0.001,
    optimizer: torch.optim.Optimizer | None = None,
    device: str | torch.device | None = None,
    input_shape: tuple[int, ...] | None = None,
    nb_classes: int | None = None,
) -> Any:
    """Make an ART `PyTorchRandomizedSmoothing` of `model` (Cohen et al. 2019), all else as `classifier`.

    It predicts by majority over `sample_size` images with Gaussian noise of standard deviation `scale` (in units of
    the pixel range); `certify(x, n)` returns classes (−1: abstained) and l2 radii that hold with probability
    1 − `alpha`. ART draws the noise from NumPy's global generator.
    """
    from ensemble_bench.adapters.art_classifier import SmoothedClassifier

    smoothing = {"scale": scale, "sample_size": sample_size, "alpha": alpha}
    return _estimator(SmoothedClassifier, model, optimizer, device, input_shape, nb_classes, entering=True, **smoothing)


def check(name: str, arguments: Mapping[str, Any]) -> int:
    """Steps of an evasion attack of the toolkit; raises as `arguments.check`."""
    return args.check("art", _attacks(), name, arguments)


def attack(
    name: str,
    model: nn.Module,
    x: Float[Tensor, "batch channel row column"],
    y: Int64[Tensor, "batch"],
    threat: ThreatModel,
    arguments: Mapping[str, Any],
    *,
    classes: int,
    seed: int,
) -> Any:
    """Run ART's evasion attack `name`, untargeted, on a batch; returns the array that it returns.

    Norm and eps are filled in, `eps_step` keeps its ratio to eps, the batch is attacked in one piece where ART does so
    too; all else is ART's default. `seed` is not used: ART draws from NumPy's global generator. Attacks that keep to
    the ball are AutoConjugateGradient, AutoProjectedGradientDescent, BasicIterativeMethod, FastGradientMethod,
    MomentumIterativeMethod, ProjectedGradientDescent, RescalingAutoConjugateGradient and SquareAttack. Others may
    return images outside it, as those do that look for the nearest adversarial image (BoundaryAttack,
    CarliniL2Method, DeepFool, HopSkipJump, …), or want probabilities instead of logits (SimBA). Raises
    InvalidValueError for an argument that contradicts the threat model.
    """
    made = _attacks()[name]
    known = args.parameters(made)
    if name == "BasicIterativeMethod" and threat.norm != "linf":  # it takes an eps, but no norm
        raise InvalidValueError(f"art:{name} attacks under linf, but the threat model is {threat.norm}")
    one_by_one = "batch_size" in known and known["batch_size"].default == 1
    arguments = args.complete(
        f"art:{name}",
        made,
        arguments,
        fixed={"eps": threat.eps, "norm": NORMS[threat.norm], "targeted": False},
        defaults={"verbose": False} if one_by_one else {"verbose": False, "batch_size": len(x)},
        step_size="eps_step",
    )
    from ensemble_bench.adapters.art_classifier import ViewClassifier

    estimator = _estimator(ViewClassifier, model, None, None, tuple(x.shape[1:]), classes, entering=False)
    return made(estimator, **arguments).generate(x.cpu().numpy(), y.cpu().numpy())


def _estimator(
    kind: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    device: str | torch.device | None,
    input_shape: tuple[int, ...] | None,
    nb_classes: int | None,
    *,
    entering: bool,
    **settings: Any,
) -> Any:
    model = as_module(model)
    architecture = getattr(getattr(model, "info", None), "architecture", None)
    shape = getattr(architecture, "image_shape", None) if input_shape is None else input_shape
    classes = getattr(architecture, "classes", None) if nb_classes is None else nb_classes
    if shape is None or classes is None:
        raise InvalidValueError(
            "input_shape and nb_classes are missing: a model that was not loaded from a checkpoint needs both, "
            "such as input_shape=(3, 32, 32), nb_classes=10"
        )
    parameters = list(model.parameters())
    if optimizer is not None:
        own = set(map(id, parameters))
        if not all(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            raise InvalidValueError("the optimizer holds parameters that are not the model's")
    at = parameters[0].device if parameters else torch.device("cpu")
    wanted = at if device is None else resolve_device(device)
    # ART takes the current GPU, whichever the model is on.
    with torch.cuda.device(-1 if wanted.index is None else wanted.index):
        return kind(
            model=(AttackView if optimizer is None else TrainingView)(model, entering=entering),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(shape),
            nb_classes=int(classes),
            optimizer=optimizer,
            clip_values=(0.0, 1.0),
            # ART's default, minus 0 over 1, copies every image and casts it to float32.
            preprocessing=None,
            device_type="cpu" if wanted.type == "cpu" else "gpu",
            **settings,
        )


def _attacks() -> dict[str, Any]:
    """Evasion attacks on PyTorch classifiers."""
    from art.attacks import EvasionAttack, evasion
    from art.estimators.classification import PyTorchClassifier

    def fits(attack: Any) -> bool:
        wanted = [need if isinstance(need, tuple) else (need,) for need in attack._estimator_requirements]
        return all(any(issubclass(PyTorchClassifier, c) for c in choice) for choice in wanted)

    found = {name: thing for name, thing in vars(evasion).items() if inspect.isclass(thing)}
    attacks = {name: thing for name, thing in found.items() if issubclass(thing, EvasionAttack) and fits(thing)}
    return {name: thing for name, thing in attacks.items() if "TensorFlow" not in name}
