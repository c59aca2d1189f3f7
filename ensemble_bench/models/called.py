"""Models that are no modules: functions and objects that are called with images, each in a module of its own."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ensemble_bench.errors import InvalidValueError


class Called(nn.Module):
    """A function of images, or an object that is called with them, and the networks that are found in it.

    Found are modules among an object's attributes, among what a function closes over, and the one that a method belongs
    to. They go into eval mode and are frozen and moved as all submodules are; what nobody sees has to be so already.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.found = nn.ModuleList(dict.fromkeys(_networks(function)))

    def forward(self, x: Tensor) -> Any:
        """What it gives, in which `answers.answer` finds the logits."""
        return self.function(x)


def as_module(model: Any, what: str = "model") -> nn.Module:
    """`model` itself if it is a module, or what is called with images as a `Called`; raises InvalidValueError."""
    if isinstance(model, nn.Module):
        return model
    if not callable(model) or isinstance(model, type):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise InvalidValueError(f"{what} is {kind}: expected a torch.nn.Module, or a function of images")
    return Called(model)


def _networks(function: Any) -> Iterator[nn.Module]:
    owner = getattr(function, "__self__", function)
    values = [owner, *getattr(owner, "__dict__", {}).values()]
    if inspect.isfunction(function):
        seen = inspect.getclosurevars(function)
        values += [*seen.nonlocals.values(), *seen.globals.values()]
    for value in values:
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, nn.Module):
                yield part
