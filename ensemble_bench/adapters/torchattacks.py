"""Models for torchattacks (Kim 2020), and its attacks; `EngineAttack` is ours as one of its classes."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from ensemble_bench.adapters import arguments as args
from ensemble_bench.adapters.view import AttackView
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models.entry import Entered
from ensemble_bench.threat import ThreatModel

if TYPE_CHECKING:
    from ensemble_bench.adapters.torchattacks_attack import EngineAttack

__all__ = ["EngineAttack", "attack", "check", "module"]

NORMS = {"linf": "Linf", "l2": "L2"}
WRAPPERS = ("LGV", "MultiAttack")
# The attacks whose eps is a Euclidean distance though they have no argument "norm".
L2_ATTACKS = ("PGDL2", "PGDRSL2")


def module(model: nn.Module) -> nn.Module:
    """Wrap `model` so that every `torchattacks.*` attack accepts it; images are in [0, 1].

    Any module that maps images to logits will do. The attack sees it in eval mode and differentiates it by its
    input only; the mode and the gradients of `model` stay as they are, also when an attack raises. Logits are shifted
    so that an image's smallest one is 0, which changes no prediction and no gradient of a loss. Only LGV wants the
    model itself, where it is to train copies of it. The model is looked at when it is first called (`AttackView`).
    """
    return _PositiveLogits(model, entering=True)


def check(name: str, arguments: Mapping[str, Any]) -> int:
    """Steps of an attack of the toolkit; raises as `arguments.check`."""
    return args.check("torchattacks", _attacks(), name, arguments)


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
) -> Float[Tensor, "batch channel row column"]:
    """Run the toolkit's attack `name` on a batch.

    Norm, eps, classes and seed are filled in, and the step size `alpha` keeps its ratio to eps. Everything else is the
    toolkit's default, such as 10 steps for APGD, APGDT and FAB. Attacks that take no eps (CW, DeepFool, EADEN, EADL1,
    GN, JSMA, OnePixel, Pixle, SparseFool) may return images outside the ball; all others keep to it. Raises
    InvalidValueError for an attack of another norm, or an argument that contradicts the threat model.
    """
    label, made = f"torchattacks:{name}", _attacks()[name]
    known = args.parameters(made)
    norm = "l2" if name in L2_ATTACKS else "linf"
    if "norm" not in known and {"eps", "max_epsilon"} & known.keys() and norm != threat.norm:
        raise InvalidValueError(f"{label} attacks under {norm}, but the threat model is {threat.norm}")
    arguments = args.complete(
        label,
        made,
        arguments,
        fixed={
            "eps": threat.eps,
            "max_epsilon": threat.eps,
            "norm": NORMS[threat.norm],
            "n_classes": classes,
        },
        defaults={"seed": seed},
        step_size="alpha",
    )
    found: Tensor = made(_PositiveLogits(model), **arguments)(x, y)
    return found


def __getattr__(name: str) -> Any:
    if name == "EngineAttack":  # its module imports torchattacks
        return importlib.import_module("ensemble_bench.adapters.torchattacks_attack").EngineAttack
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _PositiveLogits(AttackView):
    """A view without negative logits, which CW, EADL1 and EADEN need: they take 0 for the logit of a masked class."""

    def _enter(self, entered: Entered) -> None:
        """From now on show what gives logits in reach of gradients, where the model itself does not."""
        self._model = (entered.model,)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits, shifted."""
        logits = super().forward(x)
        return logits - logits.detach().amin(dim=1, keepdim=True)


def _attacks() -> dict[str, Any]:
    """Every attack but those that wrap or train other objects."""
    import torchattacks

    return {name: getattr(torchattacks, name) for name in torchattacks.__all__ if name not in WRAPPERS}
