"""Batch norm folded into the convolutions around it, on the graph of a network.

In eval mode batch norm is s·v + t for constants s and t of a channel. After a convolution it is a part of that. In a
pre-activation network (He et al. 2016, "Identity mappings") it reads the residual stream, a sum that goes on to further
blocks: here the stream is carried as u = a·v + c instead. Since relu(s·v + t) = r·relu(u) for r = s/a > 0 and c = t/r,
r goes into the next convolutions and c into the bias of the convolution that was added last, where it costs nothing.
"""

import copy
import operator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

# A stream is carried for no reader whose scale differs by more than this from that of the stream in some channel: a
# shift that is large beside the values would cost them digits.
LIMIT = 100.0

_ADDS: tuple[object, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_RELUS: tuple[object, ...] = (F.relu, torch.relu, torch.relu_, "relu", "relu_")


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """v ↦ scale·v + shift, a channel; in float64."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """Convolutions and their sums, and the batch norms that read them; both in the order of the graph."""

    values: list[fx.Node]
    readers: list[fx.Node]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How a stream is carried: its scale, the shift of every value, and the readers that then cost nothing."""

    scale: Tensor
    shifts: dict[fx.Node, Tensor]
    free: set[fx.Node]


def fold_graph(network: nn.Module) -> nn.Module | None:
    """A network that computes what `network` does in eval mode, without batch norms; None where it has none.

    It shares all modules with `network` but for the convolutions that changed. Raises whatever `network` raises while
    torch.fx traces it, and ValueError where the trace does not hold all that it does.
    """
    graph = fx.Tracer().trace(network)
    own = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    for node in graph.nodes:
        node.type = None  # annotations of axes, which do not stand for themselves in the code of a graph
        # A tensor that forward makes would be a constant from now on, also where it is drawn at random.
        if node.op == "get_attr" and node.target not in own:
            raise ValueError(f"{node.target} is made anew at every call")
    folding = _Folding(network, graph)
    return folding.network() if folding.run() else None


class _Folding:
    """The graph, which `run` rewrites, and what that puts before and behind every convolution."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.root, self.graph = root, graph
        self.modules = dict(root.named_modules())
        self.before: dict[fx.Node, Tensor] = {}  # scale of the input's channels
        self.behind: dict[fx.Node, _Affine] = {}
        self.parts: dict[str, Any] = {}  # new convolutions and constants

    def run(self) -> bool:
        """Fold every batch norm that can be, make the others a multiply and an add; returns whether there was one."""
        left = {node: norm for node in self.graph.nodes if (norm := self.norm(node)) is not None}
        any_norms = bool(left)
        for node, norm in list(left.items()):
            source = _input(node)
            if self.conv(source) is not None and set(source.users) == {node}:
                self.append(source, norm)
                self.replace(node, source)
                del left[node]
        while left:
            node = next(iter(left))
            stream = self.stream(_input(node))
            norms = {reader: left.pop(reader) for reader in ([node] if stream is None else stream.readers)}
            plans = [] if stream is None else self.plans(stream, norms)
            if stream is not None and plans:
                self.carry(stream, norms, max(plans, key=lambda plan: len(plan.free)))
            else:
                for reader, norm in norms.items():
                    self.read(reader, norm)
        return any_norms

    def network(self) -> nn.Module:
        """The module of the rewritten graph."""
        for node in dict.fromkeys([*self.before, *self.behind]):
            node.target = self.part(self.changed(node))
        parts = dict(self.parts)
        for node in self.graph.nodes:
            if node.op in ("call_module", "get_attr") and node.target not in parts:
                parts[node.target] = operator.attrgetter(node.target)(self.root)
        self.graph.lint()
        module = fx.GraphModule(parts, self.graph, class_name=f"Folded{type(self.root).__name__}")
        module.training = False
        return module

    # What a node is

    def called(self, node: Any) -> nn.Module | None:
        """The module that `node` calls on one value."""
        if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            return None
        return self.modules.get(str(node.target))

    def conv(self, node: Any) -> nn.Conv2d | None:
        """The convolution that `node` calls."""
        module = self.called(node)
        # A subclass may compute something else.
        return module if type(module) is nn.Conv2d else None

    def norm(self, node: fx.Node) -> _Affine | None:
        """What `node` does to a channel, if it is a batch norm by its running statistics."""
        module = self.called(node)
        if type(module) is not nn.BatchNorm2d or module.training:
            return None
        if module.running_mean is None or module.running_var is None:
            return None
        scale = (module.running_var.detach().double() + module.eps).rsqrt()
        if module.affine:
            scale = scale * module.weight.detach().double()
        shift = -module.running_mean.detach().double() * scale
        if module.affine:
            shift = shift + module.bias.detach().double()
        return _Affine(scale=scale, shift=shift)

    def is_relu(self, node: fx.Node) -> bool:
        """Whether `node` is a ReLU."""
        return type(self.called(node)) is nn.ReLU or (node.op.startswith("call_") and node.target in _RELUS)

    def takers(self, reader: fx.Node) -> list[fx.Node] | None:
        """The convolutions that follow on `reader` and a ReLU, if all can take a scale and nothing else follows."""
        if not all(map(self.is_relu, reader.users)):
            return None
        nodes = [user for relu in reader.users for user in relu.users]
        convs = [self.conv(node) for node in nodes]
        return nodes if all(conv is not None and conv.groups == 1 for conv in convs) else None

    def stream(self, value: Any) -> _Stream | None:
        """The sums that `value` is a part of; None where more than convolutions goes in, or than batch norm reads."""
        found: set[fx.Node] = set()
        todo = [value]
        while todo:
            node = todo.pop()
            if not (_is_sum(node) or self.conv(node) is not None):
                return None
            if node not in found:
                found.add(node)
                todo += [*(node.args if _is_sum(node) else ()), *(user for user in node.users if _is_sum(user))]
        readers = {user for node in found for user in node.users if not _is_sum(user)}
        if any(self.norm(reader) is None for reader in readers):
            return None
        return _Stream(
            values=[node for node in self.graph.nodes if node in found],
            readers=[node for node in self.graph.nodes if node in readers],
        )

    # Plans

    def plans(self, stream: _Stream, norms: dict[fx.Node, _Affine]) -> list[_Plan]:
        """Ways to carry a stream: with the scale of each of its readers, the last one first."""
        plans = [self.plan(stream, norms, reader) for reader in reversed(stream.readers)]
        return [plan for plan in plans if plan is not None]

    def plan(self, stream: _Stream, norms: dict[fx.Node, _Affine], reference: fx.Node) -> _Plan | None:
        """The stream with the scale and shift of the reader `reference`.

        None where that reader would not be free, or the scale is too small in some channel for the other readers.
        """
        scale = norms[reference].scale
        ratios = {reader: norm.scale / scale for reader, norm in norms.items() if reader is not reference}
        # Without it, something other than a ReLU might write into the stream.
        goes = set(_input(reference).users) == {reference} or all(map(self.is_relu, reference.users))
        if not goes or not all(bool((ratio.abs() <= LIMIT).all()) for ratio in ratios.values()):
            return None
        wanted, free = {_input(reference): norms[reference].shift}, {reference}
        for reader, ratio in ratios.items():
            if _input(reader) not in wanted and self.takers(reader) is not None and (ratio * LIMIT >= 1).all():
                wanted[_input(reader)] = norms[reader].shift / ratio
                free.add(reader)
        shifts = _shifts(stream.values, wanted)
        missed = {reader for reader in free if shifts[_input(reader)] is not wanted[_input(reader)]}
        return None if reference in missed else _Plan(scale=scale, shifts=shifts, free=free - missed)

    # What is done

    def carry(self, stream: _Stream, norms: dict[fx.Node, _Affine], plan: _Plan) -> None:
        """Carry a stream as planned."""
        for value in stream.values:
            if not _is_sum(value):
                self.append(value, _Affine(scale=plan.scale, shift=plan.shifts[value]))
        for reader, norm in norms.items():
            value = _input(reader)
            if reader in plan.free and torch.equal(norm.scale, plan.scale):
                self.replace(reader, value)
                continue
            ratio = norm.scale / plan.scale
            if reader in plan.free:
                self.before |= dict.fromkeys(self.takers(reader) or (), ratio)
                self.replace(reader, value)
            else:
                self.read(reader, _Affine(scale=ratio, shift=norm.shift - ratio * plan.shifts[value]))

    def append(self, conv: fx.Node, affine: _Affine) -> None:
        """Let the convolution of a node end in `affine`."""
        if (first := self.behind.get(conv)) is not None:
            shift = affine.scale * first.shift + affine.shift
            affine = _Affine(scale=affine.scale * first.scale, shift=shift)
        self.behind[conv] = affine

    def replace(self, reader: fx.Node, value: fx.Node) -> None:
        """Put `value` where a batch norm was."""
        followers = list(reader.users)
        reader.replace_all_uses_with(value)
        self.graph.erase_node(reader)
        if len(value.users) > 1:
            for relu in filter(self.is_relu, followers):  # not in place: others read the value too
                relu.op, relu.target, relu.args, relu.kwargs = "call_function", F.relu, (value,), {}

    def read(self, reader: fx.Node, affine: _Affine) -> None:
        """Put one multiply and add where a batch norm was."""
        dtype = cast(nn.BatchNorm2d, self.called(reader)).running_mean.dtype  # type: ignore[union-attr]
        with self.graph.inserting_before(reader):
            scale, shift = (
                self.graph.get_attr(self.part(v.to(dtype)[:, None, None])) for v in (affine.scale, affine.shift)
            )
            value = self.graph.call_function(_scaled, (_input(reader), scale, shift))
        reader.replace_all_uses_with(value)
        self.graph.erase_node(reader)

    def part(self, part: nn.Module | Tensor) -> str:
        """Name of a new part of the network."""
        name = f"folded{len(self.parts)}"
        self.parts[name] = part
        return name

    def changed(self, node: fx.Node) -> nn.Conv2d:
        """The convolution of a node with what goes before and behind it."""
        conv = cast(nn.Conv2d, self.conv(node))
        weight, bias = conv.weight.detach().double(), conv.bias
        if (scale := self.before.get(node)) is not None:
            weight = weight * scale[:, None, None]
        if (affine := self.behind.get(node)) is not None:
            weight = weight * affine.scale[:, None, None, None]
            own = affine.scale * bias.detach().double() if bias is not None else 0
            bias = cast(nn.Parameter, own + affine.shift)
        made = copy.copy(conv)
        made._parameters = {
            "weight": _fixed(weight.to(conv.weight.dtype, memory_format=torch.channels_last)),
            "bias": None if bias is None else _fixed(bias.to(conv.weight.dtype)),
        }
        made.training = False
        return made


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale·x + shift in the precision of x, which autocast may have lowered."""
    return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)


def _input(reader: fx.Node) -> fx.Node:
    """What a batch norm reads."""
    return cast(fx.Node, reader.args[0])


def _is_sum(node: Any) -> bool:
    """Whether `node` is the sum of two values."""
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method") or node.kwargs:
        return False
    return node.target in _ADDS and len(node.args) == 2 and all(isinstance(part, fx.Node) for part in node.args)


def _shifts(values: list[fx.Node], wanted: dict[fx.Node, Tensor]) -> dict[fx.Node, Tensor]:
    """Shift of every value of a stream: the very tensor in `wanted` where it can be, and where none is wanted, any.

    A convolution can have every shift, a sum every one if a part of it is a convolution that nothing else reads.
    """
    shifts: dict[fx.Node, Tensor] = {}
    for value in values:
        if not _is_sum(value):
            shifts[value] = wanted.get(value, torch.zeros_like(next(iter(wanted.values()))))
            continue
        parts = cast(list[fx.Node], list(value.args))
        shifts[value] = shifts[parts[0]] + shifts[parts[1]]
        loose = [part for part in parts if not _is_sum(part) and set(part.users) == {value}]
        if value in wanted and loose and parts[0] is not parts[1]:
            shifts[loose[-1]] = shifts[loose[-1]] + wanted[value] - shifts[value]
            shifts[value] = wanted[value]
    return shifts
