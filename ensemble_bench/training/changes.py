"""What a caller changes of a preset's settings: names and values checked, and a name for the folder of such a run."""

import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, get_args, get_type_hints

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError, UnknownNameError, check_kind
from ensemble_bench.records.threat import Threat
from ensemble_bench.training.attack import STARTS, check_name
from ensemble_bench.training.hardware import PRECISIONS
from ensemble_bench.training.presets import Network, TrainingSettings
from ensemble_bench.training.schedule import SCHEDULES

NETWORK = "network."
# Zero of these trains nothing; every other number may be zero, and none may be negative.
POSITIVE = (
    *("steps", "epochs", "batch_size", "learning_rate", "evaluate_every", "evaluate_n", "checkpoint_every"),
    *("network.depth", "network.width"),
)


def fields() -> dict[str, Any]:
    """Names that `replaced` takes, with their types: settings of a training, and those of its network.

    Surrogates are settings of black-box sets, and stand in no plan of a training.
    """
    own = {name: kind for name, kind in get_type_hints(TrainingSettings).items() if not name.startswith("surrogate")}
    del own["network"]
    return own | {f"{NETWORK}{name}": kind for name, kind in get_type_hints(Network).items()}


def replaced(settings: TrainingSettings, asked: Mapping[str, Any]) -> tuple[TrainingSettings, dict[str, Any]]:
    """`settings` with some fields replaced, and those that this changed, by name.

    `asked` has names such as "learning_rate" or "network.width", and values of the field's type or, as on the command
    line, as text. "steps" and "epochs" replace each other. Raises UnknownNameError for a name that is no field,
    InvalidValueError for a value that does not fit.
    """
    check_kind("settings", asked, Mapping)
    known = fields()
    values = {name: _checked(name, value, known) for name, value in asked.items()}
    if {"steps", "epochs"} <= values.keys():
        raise InvalidValueError("steps and epochs are both given: each replaces the other, choose one")
    before = _flat(settings)
    changed = {name: value for name, value in values.items() if value != before[name]}
    own = {name: value for name, value in changed.items() if not name.startswith(NETWORK)}
    own |= {"epochs": None} if "steps" in own else {"steps": None} if "epochs" in own else {}
    network = {name.removeprefix(NETWORK): value for name, value in changed.items() if name.startswith(NETWORK)}
    return replace(settings, network=replace(settings.network, **network), **own), changed


def slug(changes: Mapping[str, Any], longest: int = 80) -> str:
    """A name for changes in which any of them shows: "objective-adp-learning_rate-0.1"; empty for none.

    Letters, digits, points, hyphens and underscores. Of one of more than `longest` characters, at least 12, only the
    beginning, and a hash.
    """
    text = "-".join(f"{name}-{_text(name, value)}" for name, value in changes.items())
    text = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text)
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()
    return f"{text[: longest - 9]}-{digest[:8]}"


def _flat(settings: TrainingSettings) -> dict[str, Any]:
    network = {f"{NETWORK}{name}": value for name, value in asdict(settings.network).items()}
    return asdict(settings) | network


def _checked(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    """The value of a field, from text if it is one; raises as `replaced`."""
    if name not in known:
        raise UnknownNameError("setting", name, known)
    kinds = get_args(known[name]) or (known[name],)
    if types.NoneType in kinds and (value is None or str(value).lower() == "none"):
        if name in ("steps", "epochs"):
            raise InvalidValueError(f"setting {name} is {value!r}: give the other one of steps and epochs instead")
        return None
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    found = _read(kind, value)
    if found is None:
        raise InvalidValueError(f"setting {name} is {value!r}: expected {_EXPECTED.get(kind, kind.__name__)}")
    if kind in (int, float):
        _check_number(name, found)
    elif name in _NAMES:
        _NAMES[name](found)
    return found


def _read(kind: type, value: Any) -> Any:
    """`value` as a bool, int, float or str; None where it is none."""
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if kind is str:
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or not isinstance(value, (str, int, float) if kind is float else (str, int)):
        return None
    try:
        return kind(value)
    except ValueError:
        return None


_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


def _check_number(name: str, value: float) -> None:
    least = "more than 0" if name in POSITIVE else "0 or more"
    if not math.isfinite(value) or value < 0 or (name in POSITIVE and value == 0):
        raise InvalidValueError(f"setting {name} is {value!r}: expected {least}")
    if name in ("momentum", "average") and value >= 1:
        raise InvalidValueError(f"setting {name} is {value!r}: expected less than 1")
    if name == "clean_share" and value > 1:
        raise InvalidValueError(f"setting clean_share is {value!r}: expected 0 to 1")


def _one_of(name: str, choices: Any) -> Callable[[str], object]:
    def check(value: str) -> None:
        if value not in choices:
            raise UnknownNameError(name, value, choices)

    return check


_NAMES: Mapping[str, Callable[[str], object]] = {
    "schedule": _one_of("schedule", SCHEDULES),
    "train_attack": check_name,
    "attack_start": _one_of("attack_start", STARTS),
    "precision": _one_of("precision", PRECISIONS),
    "saved_as": _one_of("saved_as", ("float32", "float16")),
    "network.backbone": lambda value: registry.check("backbone", value),
}


def _text(name: str, value: Any) -> str:
    """A value in the name of a folder: 0.1, 30 for 30.0, 4of255."""
    if name == "eps":
        return Threat(norm="linf", eps=value).eps_text.replace("/", "of")
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value).strip("'").lower()
