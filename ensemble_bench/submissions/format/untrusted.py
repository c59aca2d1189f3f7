"""Strict reading of strangers' text and JSON: what passes is safe to store, to print and to put into a page."""

import json
import unicodedata
from typing import Any

from ensemble_bench.errors import BundleError
from ensemble_bench.records.decoding import refuse_constant

MAX_DEPTH = 16
LARGEST = 2.0**63
# The longest list of authors that RobustBench holds is half of this.
MAX_CHARACTERS = 2000


def parse_json(data: bytes, where: str) -> Any:
    """Parse the JSON `data` of the file `where`.

    Raises BundleError for text that is not UTF-8 or not JSON, a key given twice, a number beyond 64 bits,
    more than MAX_DEPTH levels, and texts that check_line refuses.
    """
    try:
        values = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise BundleError(f"{where}: not UTF-8") from None
    except RecursionError:
        raise BundleError(f"{where}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise BundleError(f"{where}: not JSON: {quoted(str(error), 200)}") from None
    _check(values, where, depth=1)
    return values


def check_line(text: str, where: str) -> str:
    """Return `text`; raise BundleError if it is long, or holds markup, control or direction characters or line ends."""
    if len(text) > MAX_CHARACTERS:
        raise BundleError(f"{where}: a text of {len(text)} characters, at most {MAX_CHARACTERS} are taken")
    for character in text:
        if character in "<>" or _is_invisible(character):
            raise BundleError(f"{where}: {quoted(text)} holds {_named(character)}, which no text may")
    return text


def check_page(data: bytes, where: str) -> str:
    """Return `data` as text of many lines; raise BundleError if it is not UTF-8 or holds control characters."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BundleError(f"{where}: not UTF-8") from None
    for character in text:
        if character not in "\n\r\t" and _is_invisible(character):
            raise BundleError(f"{where}: holds {_named(character)}, which no text may")
    return text


def quoted(text: str, length: int = 60) -> str:
    """At most `length` characters of a stranger's text in quotes, control characters escaped."""
    return repr(text if len(text) <= length else f"{text[:length]}…")


def on_one_line(text: str) -> str:
    """A stranger's text on one line, with a question mark for each control character."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _check(value: Any, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BundleError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        check_line(value, where)
    elif isinstance(value, int | float) and not abs(value) < LARGEST:
        raise BundleError(f"{where}: holds a number beyond {LARGEST:g}")
    elif isinstance(value, list | dict):
        for item in value:
            _check(item, where, depth + 1)
        for item in value.values() if isinstance(value, dict) else ():
            _check(item, where, depth + 1)


def _is_invisible(character: str) -> bool:
    """Control, direction, private and unassigned characters, halves of pairs, and ends of lines and paragraphs."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _named(character: str) -> str:
    return repr(character) if character.isprintable() else f"U+{ord(character):04X}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {quoted(key)} stands twice")
        values[key] = value
    return values
