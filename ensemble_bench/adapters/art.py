"""Models for the Adversarial Robustness Toolbox (Nicolae et al. 2018), and its attacks."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ensemble_bench.adapters import arguments as args
from ensemble_bench.adapters.view import AttackView
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.threat import ThreatModel

NORMS = {"linf": math.inf, "l2": 2}


def classifier(
    model: nn.Module,
    *,
    device: str | torch.device | None = None,
    input_shape: tuple[int, ...] | None = None,
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
    estimator = classifier(model, input_shape=tuple(x.shape[1:]), nb_classes=classes)
    return made(estimator, **arguments).generate(x.cpu().numpy(), y.cpu().numpy())


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
