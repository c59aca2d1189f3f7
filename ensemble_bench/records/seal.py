"""Self-hashes: a JSON file says what its other values hash to, so that a changed one is noticed where it is read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ensemble_bench.records.decoding import plain, strict

SELF_HASH = "self_hash"
"""Key of the hash; a file without one is from before, and taken as it is."""


class DamagedError(ValueError):
    """The values of a file are not those that its self-hash was made of."""


def identify(fields: Mapping[str, Any]) -> str:
    """64 hex digits that stand for `fields`: SHA-256 of their canonical JSON. Raises ValueError for NaN."""
    text = json.dumps(plain(fields), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` and their hash, to be written as JSON."""
    return {**values, SELF_HASH: f"sha256:{identify(values)}"}


def opened(text: str | bytes) -> Any:
    """The values of a JSON text, without the self-hash of an object that has one.

    Raises ValueError for what is no JSON or nested too deep, and DamagedError, which is one, for other values than were
    hashed.
    """
    try:
        values = strict(text)
        if not isinstance(values, dict) or SELF_HASH not in values:
            return values
        said = values.pop(SELF_HASH)
        found = f"sha256:{identify(values)}"
    except RecursionError:
        raise ValueError("nested too deep") from None
    if said != found:
        raise DamagedError(f"damaged: it says that its values hash to {said!r}, but they hash to {found!r}")
    return values
