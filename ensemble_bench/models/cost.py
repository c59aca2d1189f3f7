"""Parameters and FLOPs of a model, and the width at which a single network has as many as an ensemble."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import skeleton
from ensemble_bench.models.calling import frozen, to_eval

# The paper calls width 15 "roughly" twice the parameters of width 10 (it is 2.25 times), so times 4 is width 20.
BYTES = 4
"""Of a number in float32."""
PAPER_WIDTHS = {1: 1.0, 2: 1.5, 4: 2.0}


def parameters(model: nn.Module | Architecture) -> int:
    """Number of distinct weights, without buffers such as batch norm's statistics."""
    module = skeleton(model, device="meta") if isinstance(model, Architecture) else model
    count = sum(parameter.numel() for parameter in module.parameters())
    return count or sum(value.numel() for value in _packed(module))


def _packed(module: nn.Module) -> Iterator[Tensor]:
    """Weights that are no parameters: those of integer layers, and the constants of frozen TorchScript."""
    for value in module.state_dict().values():
        yield from (v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor))
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule) and not part.state_dict():
            constants = (node for node in part.inlined_graph.nodes() if node.kind() == "prim::Constant")
            yield from (node.t("value") for node in constants if node.kindOf("value") == "t" if node.hasAttributes())


def flops(model: nn.Module | Architecture, image_shape: tuple[int, int, int] | None = None) -> int:
    """Floating-point operations of one image's forward pass, a multiply-add counted as 2.

    Counts convolutions and products of matrices, those of attention too, as published numbers do; batch norm,
    activations and pooling are below a percent. `image_shape` is (channel, row, column); only an Architecture brings
    its own. The model is left as it was.
    """
    if isinstance(model, Architecture):
        return _count(skeleton(model, device="meta"), image_shape or model.image_shape)
    if image_shape is None:
        raise InvalidValueError("image_shape is missing: a module does not say which images it takes")
    return _count(model, image_shape)


def activation_bytes(architecture: Architecture) -> int:
    """Bytes, in float32, of all that the layers of a model give for one image: what a backward pass keeps, about."""
    one = skeleton(replace(architecture, members=1, gated=False), device="meta")
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, Tensor) else 0

    for module in one.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(add)
    with torch.no_grad():
        to_eval(one)
        one(torch.zeros(1, *architecture.image_shape, device="meta"))
    return BYTES * architecture.members * total


def match_width(architecture: Architecture, *, times: int, by: str) -> float:
    """Width at which the single network `architecture` costs `times` as much.

    `by` "params" or "flops" gives the width whose count comes closest to `times` that of `architecture`; "paper" gives
    the paper's own, 1.5 times the width for twice the budget and 2 times for four times. Raises UnknownNameError for
    another `by`, InvalidValueError for an ensemble or a `times` below 1 (paper: other than 1, 2 and 4).
    """
    if architecture.members != 1:
        raise InvalidValueError(f"members is {architecture.members}: only a single network's width is matched")
    if by == "paper":
        if times not in PAPER_WIDTHS:
            raise InvalidValueError(f"times is {times!r}: the paper has widths for {', '.join(map(str, PAPER_WIDTHS))}")
        return architecture.width * PAPER_WIDTHS[times]
    if by not in ("params", "flops"):
        raise UnknownNameError("match", by, ("paper", "params", "flops"))
    if times < 1:
        raise InvalidValueError(f"times is {times!r}: expected an integer from 1")
    count: Callable[[Architecture], int] = parameters if by == "params" else flops

    def cost(width: float) -> int:
        return count(replace(architecture, width=width))

    return _closest(cost, times * cost(architecture.width), architecture.width, times * architecture.width)


def _closest(cost: Callable[[float], int], target: int, low: float, high: float) -> float:
    """Width in [low, high] whose `cost` is nearest to `target`, with the fewest decimals; `cost` rises in steps."""
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) >= target else (middle, high)
    best = min((low, high), key=lambda width: abs(cost(width) - target))
    return next(short for digits in range(2, 12) if cost(short := round(best, digits)) == cost(best))


def _count(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """FLOPs of one forward pass in eval mode, of attention too: torch counts none of its fused kernels."""
    like = next(model.parameters(), torch.empty(0))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    total: int = counter.get_total_flops()
    return total
