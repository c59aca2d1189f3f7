"""The exceptions of ensemble-bench: each message is one line that names the value and what was expected."""

import difflib
from collections.abc import Iterable
from numbers import Integral


def shortened(text: str) -> str:
    """Return `text`, which may quote anything of any length, on one line of at most 300 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]}…"


# The most characters of an error: what begins it, and what ends it, which says what to do.
HEAD, TAIL = 1400, 500


def _one_line(message: str) -> str:
    """A message as one line that any terminal can show: what it quotes may be long, or hold anything."""
    message = _cut(message)
    if len(message.splitlines()) > 1:
        message = " ".join(message.split())
    if message.isprintable():
        return message
    # Control characters, and halves of pairs, which no file or terminal takes.
    return _cut("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


def _cut(message: str) -> str:
    return message if len(message) <= HEAD + TAIL else f"{message[:HEAD]} … {message[-TAIL:]}"


class EnsembleBenchError(Exception):
    """Base of every error that a user can mend; the command line prints it as one line and exits with 2."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(message))


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
        super().__init__(f"unknown {kind} {shortened(repr(name))}: {hint}{offer}")
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


# What PyTorch says where it is the processor's memory: its error is then a plain RuntimeError.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or the processor, so that a smaller batch may do; torch is not imported."""
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError)
