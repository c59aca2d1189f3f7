"""What kinds of values public functions take: anything else is refused in one line, by `takes`, before they begin."""

import collections.abc
import functools
import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from ensemble_bench.errors import InvalidValueError, shortened

_Function = TypeVar("_Function", bound=Callable[..., Any])
# The kinds of values that `takes` knows, in the words of its errors.
_WORDS: Mapping[Any, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "True or False", type(None): "None", Path: "a path",
    Mapping: "a Mapping", Sequence: "a list",
}  # fmt: skip


def takes(function: _Function) -> _Function:
    """A public function that refuses values of another kind than its parameters name, in one line.

    Checked are parameters of plain kinds: texts, numbers, paths, devices, lists, mappings. A scalar where a number or
    a name is expected passes: whoever takes it says which there are. NumPy's numbers become Python's, as records are
    JSON.
    """
    signature = inspect.signature(function)
    kinds = {name: found for name, p in signature.parameters.items() if (found := _kinds(p))}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidValueError(f"{function.__qualname__.rpartition('<locals>.')[2]}: {error}") from None
        for name, value in given.arguments.items():
            if name in kinds:
                given.arguments[name] = _checked(name, value, kinds[name])
        return function(*given.args, **given.kwargs)

    return checked  # type: ignore[return-value]


def _kinds(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """The kinds that a parameter takes; none where one of them is not plain."""
    union = isinstance(parameter.annotation, types.UnionType)
    kinds = get_args(parameter.annotation) if union else (parameter.annotation,)
    kinds = tuple(get_origin(kind) or kind for kind in kinds)
    plain = all(kind in _WORDS or _is_called(kind) or getattr(kind, "__module__", "") == "torch" for kind in kinds)
    return kinds if plain else ()


def _is_called(kind: Any) -> bool:
    """Whether a kind is of functions: Callable, or a protocol of them."""
    return kind is collections.abc.Callable or getattr(kind, "_is_protocol", False)


def _fits(value: Any, kind: Any) -> bool:
    if _is_called(kind):
        return callable(value) and not isinstance(value, type)
    if kind is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return isinstance(value, os.PathLike if kind is Path else Real if kind is float else kind)


def _checked(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    scalar = value is None or isinstance(value, str | bytes | Real)
    number = float in kinds or int in kinds
    if isinstance(value, str) and "\0" in value:
        raise InvalidValueError(f"{name} is {shortened(repr(value))}: no text has a NUL in it")
    if isinstance(value, Real) and not isinstance(value, bool | int | float) and number:
        return int(value) if isinstance(value, Integral) else float(value)
    if any(_fits(value, kind) for kind in kinds) or (scalar and (number or kinds == (str,))):
        return value
    told = shortened(repr(value)) if scalar else f"a {type(value).__name__}"
    if isinstance(value, type):
        told = f"the class {value.__name__}"
    words = [_WORDS.get(kind, f"a {kind.__name__}") if isinstance(kind, type) else str(kind) for kind in kinds]
    expected = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    raise InvalidValueError(f"{name} is {told}: expected {expected}")
