"""What a target of fuzzing is: a reader, its files, valid ones to begin from, and what it may raise.

In a seed "@self", "@check" and the like stand for hashes and checksums; `Target.write` puts the true ones in their
place, so that what was changed around them is read and not only refused.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mutating import Parts
from small_models import ARCHITECTURE

from ensemble_bench import data
from ensemble_bench.errors import EnsembleBenchError
from ensemble_bench.records import identify

SMALL = replace(ARCHITECTURE, width=1 / 16)
GATED = replace(SMALL, members=2, gated=True)
META = {
    "recipe": "singleadv",
    "preset": "tiny",
    "dataset": "digits",
    "seed": 0,
    "seeds": [0],
    "checkpoint": "best",
    "threat": {"norm": "linf", "eps": 8 / 255},
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader: its files by name with their kinds (see mutating.py), valid ones, and what it may raise."""

    name: str
    files: Mapping[str, str]
    seeds: Callable[[], list[Parts]]
    read: Callable[[Path], object]
    errors: tuple[type[EnsembleBenchError], ...]
    seal: Callable[[Parts], Parts] = lambda parts: parts
    quick: int = 100
    """Mutants in the tests."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of every part."""
        return tuple(self.files.values())

    def write(self, parts: Parts, folder: Path) -> None:
        """Put the parts into a folder as the files that are read."""
        for name, part in zip(self.files, self.seal(parts), strict=True):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part)


def each(*readers: Callable[[], object]) -> None:
    """Call all readers; the first error is raised once the others were called too."""
    first: EnsembleBenchError | None = None
    for reader in readers:
        try:
            reader()
        except EnsembleBenchError as error:
            first = first or error
    if first is not None:
        raise first


@functools.cache
def scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory()


@functools.cache
def digits() -> data.ImageSet:
    """Test images."""
    return data.open_source("digits").split("test")


def put(text: bytes, marker: str, value: str) -> bytes:
    """The text with a value for the marker, if it is there."""
    return text.replace(f'"@{marker}"'.encode(), json.dumps(value).encode())


def self_sealed(text: bytes) -> bytes:
    """JSON whose "@self" is the hash of its other values."""
    try:
        values = json.loads(text)
        del values["self_hash"]
        return put(text, "self", f"sha256:{identify(values)}")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return text


def marked(text: bytes | str, **markers: str) -> bytes:
    """JSON with markers in place of these keys' values."""
    return json.dumps(json.loads(text) | {key: f"@{marker}" for key, marker in markers.items()}).encode()


def header_of(weights: bytes) -> tuple[bytes, bytes]:
    """The header of a safetensors file, and the rest."""
    length = int.from_bytes(weights[:8], "little")
    return weights[8 : 8 + length], weights[8 + length :]


def with_header(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body
