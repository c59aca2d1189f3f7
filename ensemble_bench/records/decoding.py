"""Plain JSON values to frozen dataclasses and back, strictly: nothing unknown, nothing missing, nothing guessed."""

import dataclasses
import functools
import json
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from ensemble_bench.errors import shortened

MAX_DEPTH = 64
"""Levels of a file's values; ours have at most ten."""
LARGEST = 2**63
"""Whole numbers are below it: those of a file are counts and seeds, which other programs hold in 64 bits."""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def decode(hint: Any, value: Any, where: str, skip: tuple[str, ...] = ()) -> Any:
    """Turn a JSON value into what the annotation `hint` says; ValueError names the field `where` if it cannot be."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else decode(arguments[0], value, where)
    if dataclasses.is_dataclass(hint):
        return _decode_fields(hint, value, where, skip)
    if origin is tuple and isinstance(value, list):
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {str(key): decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value):
        return float(value)
    if hint in (bool, int, str) and type(value) is hint and (hint is not int or abs(value) < LARGEST):
        return value
    kind = {
        tuple: "a list",
        Mapping: "an object",
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a text",
    }[origin or hint]
    raise ValueError(f"{where}: expected {kind}, got {value!r}")


def _is_finite(value: float) -> bool:
    """Whether a number, a whole one of any length too, is one of 64 bits and not infinite."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _decode_fields(cls: Any, value: Any, where: str, skip: tuple[str, ...]) -> Any:
    fields = [f for f in dataclasses.fields(cls) if f.name not in skip]
    names = [f.name for f in fields]
    # Fields that came later have a default of None: records from before lack them.
    later = {f.name for f in fields if f.default is None}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {value!r}")
    for kind, wrong in (("missing", set(names) - later - set(value)), ("unknown", set(value) - set(names))):
        if wrong:
            raise ValueError(f"{kind} field {min(wrong)!r} in {where}")
    prefix = "" if where == "record" else f"{where}."
    return cls(**{name: decode(_hints(cls)[name], value.get(name), f"{prefix}{name}") for name in names})


def plain(value: Any) -> Any:
    """Copy `value` as JSON would give it back: dataclasses and mappings become dicts, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinities, as `parse_constant` of json.loads: they are no JSON. Raises ValueError."""
    raise ValueError(f"{name} is not a number")


def strict(text: str | bytes) -> Any:
    """The values of a JSON text.

    Raises ValueError for what is no JSON, numbers that are none or infinite, more than MAX_DEPTH levels, and halves of
    surrogate pairs, which no file and no terminal takes; RecursionError for very many levels.
    """
    values = json.loads(text, parse_constant=refuse_constant, parse_float=_finite)
    _check_depth(values)
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None
    return values


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else refuse_constant(shortened(text))


def _check_depth(values: Any) -> None:
    """Raise ValueError for too many levels: what recurses through the values comes to its end."""
    level = [values]
    for _ in range(MAX_DEPTH):
        level = [item for value in level if isinstance(value, dict | list) for item in _items(value)]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
