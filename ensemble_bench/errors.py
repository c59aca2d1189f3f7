"""The exceptions of ensemble-bench: each message is one line that names the value and what was expected."""

import collections.abc
import difflib
import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin


def shortened(text: str) -> str:
    """Return `text`, which may quote anything of any length, on one line of at most 300 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]}…"


class EnsembleBenchError(Exception):
    """Base of every error that a user can mend; the command line prints it as one line and exits with 2."""

    def __init__(self, message: str = "") -> None:
        # What it quotes, an array or another library's words, may have several lines.
        super().__init__(" ".join(message.split()) if "\n" in message else message)


class InvalidValueError(EnsembleBenchError, ValueError):
    """A value is out of its range or of the wrong kind."""


class BusyError(InvalidValueError):
    """Another process is at work there."""


class UnknownNameError(InvalidValueError):
    """A name is in no registry; the message offers the nearest names that are."""

    def __init__(self, kind: str, name: object, choices: Iterable[str]) -> None:
        known = sorted(choices)
        lower = {choice.lower(): choice for choice in known}
        near = [lower[match] for match in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        offer = f"choose from {', '.join(known)}" if known else "there is none"
        super().__init__(f"unknown {kind} {name!r}: {hint}{offer}")
        self.name = str(name)


def check_whole(what: str, value: object, *, least: int = 0, most: int | None = None) -> None:
    """Raise InvalidValueError, naming `what`, unless `value` is a whole number of at least `least`, at most `most`."""
    number = isinstance(value, Integral) and not isinstance(value, bool)
    if not number or value < least or (most is not None and value > most):  # type: ignore[operator]
        choice = f"{least} or more" if most is None else f"{least} to {most}"
        raise InvalidValueError(f"{what} is {value!r}: choose {'' if number else 'a whole number, '}{choice}")


def check_kind(what: str, value: object, kind: type) -> None:
    """Raise InvalidValueError, naming `what`, unless `value` is of a kind."""
    if not isinstance(value, kind):
        raise InvalidValueError(f"{what} is a {type(value).__name__}: expected {kind.__name__}")


class DataError(EnsembleBenchError):
    """A data set is missing, incomplete or not what it says."""


class CheckpointError(EnsembleBenchError):
    """A checkpoint is missing, truncated, foreign or does not fit its description."""


class AttackError(EnsembleBenchError):
    """An attack or the model under attack broke the rules (left the ball, NaN logits, wrong shape)."""


class RecordError(EnsembleBenchError):
    """A record or its samples cannot be read or do not hold what a record holds."""


class BundleError(EnsembleBenchError):
    """A submission is no bundle, holds what none may hold, or cannot be sent or published."""


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
