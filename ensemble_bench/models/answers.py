"""What a module answers to images: its own copy of them goes in, logits come out, or one line says why not.

Every call of a network that may be someone else's goes through `answer`: those of an ensemble's members and of its
gate, and those of a network on its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench.errors import AttackError, InvalidValueError, is_out_of_memory


def answer(module: nn.Module, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
    """Logits of `module` for `x`, which stays as it is even where the module writes into what it is given.

    Outputs with `logits`, as an attribute or a key, are taken for these. A network whose weights are all of one other
    precision, and that refuses images in that of `x`, gets them in its own. Raises AttackError for any other output,
    in one line that says what came.
    """
    if not isinstance(x, Tensor) or x.dim() < 2:
        came = told(x) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InvalidValueError(f"images are {came}: expected a tensor of shape (image, channel, row, column)")
    try:
        given = module(x.clone())
    except RuntimeError as error:
        own = precision_of(module)
        if is_out_of_memory(error) or own in (None, x.dtype):
            raise
        with torch.autocast(x.device.type, enabled=False):
            given = module(x.to(own))
    return logits_in(given, x)


def logits_in(given: Any, x: Tensor) -> Float[Tensor, "batch class"]:
    """The logits in what a module gave for the images `x`; raises AttackError where there are none."""
    found = given
    if not isinstance(given, Tensor):
        found = given.get("logits") if isinstance(given, Mapping) else getattr(given, "logits", None)
    if not isinstance(found, Tensor):
        raise AttackError(f"the model gave {told(given)} for {len(x)} images: {_EXPECTED}")
    if found.dim() != 2 or len(found) != len(x):
        shape = f"logits of shape {tuple(found.shape)}"
        hint = ": an answer has a row an image, also for one image alone" if found.dim() == 1 else ""
        raise AttackError(f"the model gave {shape} for {len(x)} images{hint}: expected (batch, class)")
    if not found.is_floating_point():
        raise AttackError(f"the model gave logits of dtype {found.dtype}: expected floating point")
    # Of a module that turns inference mode on; a copy takes part in what follows.
    return found.clone() if found.is_inference() and not torch.is_inference_mode_enabled() else found


_EXPECTED = "expected a tensor of logits (batch, class), or an output that has one as .logits or under 'logits'"


def told(given: Any) -> str:
    """What a module gave, in a few words: "a tuple of (Tensor (2, 10), NoneType)"."""
    if isinstance(given, Tensor):
        return f"a Tensor {tuple(given.shape)}"
    if isinstance(given, Mapping):
        return f"a {type(given).__name__} of {', '.join(map(repr, list(given)[:6])) or 'nothing'}"
    if isinstance(given, tuple | list):
        parts = (f"Tensor {tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__ for p in given[:6])
        return f"a {type(given).__name__} of ({', '.join(parts)})"
    return f"a {type(given).__name__}"


def precision_of(module: nn.Module) -> torch.dtype | None:
    """Precision of all floating-point weights of `module`; None where they differ, or where there are none."""
    found = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return found.pop() if len(found) == 1 else None
