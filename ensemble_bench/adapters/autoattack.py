"""pyautoattack (Croce & Hein 2020): FAB and Square as attacks, and AutoAttack itself to compare with."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ensemble_bench.adapters import arguments as args
from ensemble_bench.adapters.view import AttackView
from ensemble_bench.attacks import engine
from ensemble_bench.attacks.engine import Counted
from ensemble_bench.attacks.engine import check as check_named
from ensemble_bench.errors import InvalidValueError, check_kind
from ensemble_bench.kinds import takes
from ensemble_bench.models import calling
from ensemble_bench.models.called import as_module
from ensemble_bench.models.entry import entered_once
from ensemble_bench.threat import ThreatModel

NORMS = {"linf": "Linf", "l2": "L2"}


def check(name: str, arguments: Mapping[str, Any]) -> int:
    """Steps of an attack of the library; raises as `arguments.check`."""
    return args.check("autoattack", _attacks(), name, arguments)


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
    """Run the library's class `name` on a batch: its adversarial images within eps, `x` where it found none.

    FAB goes through as many target classes as there are, where that is fewer than it is told to.
    """
    made = args.complete(
        f"autoattack:{name}",
        _attacks()[name],
        arguments,
        fixed={"eps": threat.eps, "norm": NORMS[threat.norm]},
        defaults={"seed": seed, "device": x.device},
    )
    if "n_target_classes" in made:
        made["n_target_classes"] = min(made["n_target_classes"], classes - 1)
    found: Tensor = _attacks()[name](AttackView(model), **made).perturb(x.contiguous(), y)
    return found


@takes
def pyautoattack_standard(
    model: nn.Module,
    x: Float[Tensor, "batch channel row column"],
    y: Int64[Tensor, "batch"],
    threat: ThreatModel,
    *,
    seed: int = 0,
    batch_size: int = 128,
    randomised: bool = False,
) -> tuple[Float[Tensor, "batch channel row column"], Bool[Tensor, "batch"], int]:
    """Run AutoAttack's "standard" version from its own library: adversarial images, which are robust, and the passes.

    Of a `randomised` model, or one that is found to answer at random, it is the version "rand": APGD on two losses,
    every gradient a mean over 20 draws. Its library decides by single draws: its verdicts are no expected accuracy.

    Nothing of ours is in it but the count of images that went through the model, forward and backward. The model is
    left as it was found. With fewer than ten classes there are fewer targets. Raises InvalidValueError below four
    classes, where its targeted DLR loss does not exist, and AttackError should it leave the ball.
    """
    from pyautoattack import AutoAttack

    model = as_module(model)
    for what, value, kind in (("x", x, Tensor), ("y", y, Tensor), ("threat", threat, ThreatModel)):
        check_kind(what, value, kind)
    engine.validate(x, y, torch.arange(x.shape[:1].numel()))
    budget = engine.Budget(seed=seed, batch_size=batch_size, device=x.device)
    if len(x) == 0:
        return x, y.bool(), 0
    entered = entered_once(model, x)
    counted = Counted(entered.model)
    with calling.frozen(model), tracer_kept(), _quiet(), torch.enable_grad():
        classes = classes_of(model, x)
        made = AutoAttack(
            AttackView(counted),
            norm=NORMS[threat.norm],
            eps=threat.eps,
            seed=budget.seed,
            device=budget.device,
            version="rand" if randomised or entered.randomised else "standard",
        )
        limit_targets(made, classes)
        # Its checks call .view(), which images that are not contiguous do not have.
        x_adv, predicted = made.run_standard_evaluation(x.contiguous(), y, batch_size=budget.batch_size)
    check_named("pyautoattack", threat, x_adv, x)
    return x_adv, predicted == y, counted.passes


def classes_of(model: nn.Module, x: Float[Tensor, "batch channel row column"]) -> int:
    """Classes that a model tells apart; raises InvalidValueError where they are too few for AutoAttack."""
    with torch.no_grad():
        classes = calling.logits_of(model, x[:1]).shape[1]
    if classes < 4:
        raise InvalidValueError(f"the model has {classes} classes: AutoAttack's targeted DLR loss needs 4 or more")
    return classes


def limit_targets(made: Any, classes: int) -> None:
    """Let an AutoAttack go through the classes that there are: with fewer than ten, its nine targets raise."""
    made.fab.n_target_classes = made.apgd_targeted.n_target_classes = min(9, classes - 1)


def _attacks() -> dict[str, type]:
    """The classes that stand on their own."""
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    return {"FABAttack_PT": FABAttack_PT, "SquareAttack": SquareAttack}


@contextmanager
def tracer_kept() -> Iterator[None]:
    """Keep the tracer of a debugger or of coverage, which AutoAttack's check of the model takes away."""
    tracer = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(tracer)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep its log quiet."""
    log = logging.getLogger("auto-attack")
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled
