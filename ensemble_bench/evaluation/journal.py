"""The journal of an evaluation: every finished block of images is on disk before the next one starts.

Several processes may share an evaluation: each writes the journal of one block, and the evaluation itself takes over
what they all wrote.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save

from ensemble_bench.files import naming, sha256_bytes, sha256_file, write_atomic

CHECK, IMAGES_HASH = "check", "images_hash"
Entry = dict[str, Any]
Form = Callable[[Entry], bool]
"""Whether an entry holds what its reader needs."""
Images = NDArray[np.float32]


class Journal:
    """Finished work by (attack, block), kept in memory and, given a path, as lines of JSON that survive a kill.

    The first line names the evaluation; a journal of another one is discarded. Every line has a checksum. One that a
    crash cut short, or that is not what was written, is cut off with all that follow, and their blocks are done again,
    with the same results. `versions`, of packages and processor, stand in the first line and, where it is gone on with
    under others, in one more before what is then found. `threads` are those that the evaluation began with, if that is
    known: another number could round otherwise in the blocks to come. With `only`, it is the journal of that block: it
    lies beside `path`, and calls the block 0, as a job of these images alone does. Without, it takes over the journals
    of blocks that lie beside it. With `images` the adversarial images of an entry are kept too, as files in a folder
    beside it, and an entry whose images are missing is none.
    """

    def __init__(
        self,
        path: Path | None,
        evaluation: str,
        *,
        threads: int | None = None,
        only: int | None = None,
        images: bool = False,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._path = path
        self._evaluation = evaluation
        self.keeps_images = images
        self._images: dict[tuple[str, int], Images] = {}
        self._folder = None if path is None else path.with_name(f"{path.stem}-images")
        self._first = only or 0
        self.threads = threads
        self._versions = versions
        self._entries: dict[tuple[str, int], Entry] = {}
        self._made_under: dict[tuple[str, int], Mapping[str, str] | None] = {}
        self._others: list[Path] = []
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if only is None:
            self._others = sorted(path.parent.glob(f"{path.stem}-block*{path.suffix}"))
        else:
            self._others = [path] if path.exists() else []
            self._path = path = path.with_name(f"{path.stem}-block{only}{path.suffix}")
        for other in self._others:
            self._read(other, evaluation)
        whole, before = self._read(path, evaluation) if path.exists() else (0, None)
        with naming(path), open(path, "ab") as file:
            file.truncate(whole)
        if whole == 0 or before != versions:
            told = {"threads": threads, "versions": versions}
            self._append({"evaluation": evaluation} | {key: value for key, value in told.items() if value is not None})

    def _read(self, path: Path, evaluation: str) -> tuple[int, Mapping[str, str] | None]:
        """Take over the entries of `path`; returns how many of its bytes are whole lines, and the last versions."""
        whole, under = 0, None
        for line in path.read_bytes().splitlines(keepends=True):
            entry = _parsed(line)
            if entry is None or (whole == 0 and "evaluation" not in entry):
                break
            if "evaluation" not in entry:
                key = entry["attack"], entry["block"]
                self._entries[key], self._made_under[key] = entry, under
            elif entry["evaluation"] == evaluation:
                under = entry.get("versions")
                self.threads = self.threads if whole else entry.get("threads")
            else:
                break
            whole += len(line)
        return whole, under

    def other_versions(self) -> list[Mapping[str, str] | None]:
        """Versions of the entries that were made under others than this process's, each once; None: not known."""
        found: list[Mapping[str, str] | None] = []
        for key, under in self._made_under.items():
            if key in self._entries and under != self._versions and under not in found:
                found.append(under)
        return found

    def get(self, attack: str, block: int, form: Form | None = None) -> Entry | None:
        """Finished work on a block, or None; an entry that is not of this `form` is of another version, and none."""
        entry = self._entries.get((attack, self._first + block))
        if entry is None or (form is not None and not form(entry)):
            return None
        if not self.keeps_images or not any(entry.get("broken", ())):
            return entry
        known = "predicted" in entry and (not fallen_in(entry) or self._has_images(attack, block, entry))
        return entry if known else None

    def put(self, attack: str, block: int, values: Entry, images: Images | None = None) -> Entry:
        """Keep the work on a block, with images of those of its rows that `fallen_in` names; it is then on disk."""
        entry = {"attack": attack, "block": self._first + block, **values}
        if images is not None and len(images):
            if (file := self._file(attack, block)) is None:
                self._images[attack, self._first + block] = images
            else:
                data = save({"x_adv": np.ascontiguousarray(images)})
                write_atomic(file, data)
                entry[IMAGES_HASH] = sha256_bytes(data)
        self._entries[attack, self._first + block] = entry
        self._made_under[attack, self._first + block] = self._versions
        if self._path is not None:
            self._append(entry)
        return entry

    def images(self, attack: str, block: int) -> Images:
        """The adversarial images that were kept with an entry, a row for each that `fallen_in` names."""
        file = self._file(attack, block)
        if file is None:
            return self._images[attack, self._first + block]
        found: Images = load_file(file)["x_adv"]
        return found

    def _has_images(self, attack: str, block: int, entry: Entry) -> bool:
        file = self._file(attack, block)
        if file is None:
            return (attack, self._first + block) in self._images
        if not file.is_file() or entry.get(IMAGES_HASH) != sha256_file(file):
            return False
        with safe_open(file, framework="np") as images:
            return bool(images.get_slice("x_adv").get_shape()[0] == len(fallen_in(entry)))

    def _file(self, attack: str, block: int) -> Path | None:
        """Where the images of an entry lie: no name of an attack is too odd for it, and no other evaluation has it."""
        if self._folder is None:
            return None
        name = hashlib.sha256(f"{self._evaluation} {attack}".encode()).hexdigest()[:16]
        return self._folder / f"{name}-block{self._first + block}.safetensors"

    def remove(self) -> None:
        """Delete the file, those that it took over, and the images, once the record stands."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        for path in (self._path, *self._others):
            if path is not None:
                path.unlink(missing_ok=True)

    def _append(self, entry: Entry) -> None:
        assert self._path is not None
        with naming(self._path), open(self._path, "ab") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())


def _line(entry: Entry) -> bytes:
    """An entry as a line, with a checksum as its last value: the CRC-32 of the JSON without it."""
    text = json.dumps(entry, separators=(",", ":"))
    return f'{text[:-1]},"{CHECK}":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _parsed(line: bytes) -> Entry | None:
    """What a line holds; None for one that was cut short or damaged. Those of versions before have no checksum."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or (entry.pop(CHECK, None) is not None and line != _line(entry)):
        return None
    if "evaluation" in entry:
        return entry if _is_head(entry) else None
    whole = isinstance(entry.get("attack"), str) and type(entry.get("block")) is int
    return entry if whole else None


def _is_head(entry: Entry) -> bool:
    """Whether what a first line tells of threads and versions is of the kinds that `Journal` takes."""
    threads, told = entry.get("threads"), entry.get("versions")
    known = isinstance(told, dict) and all(isinstance(version, str) for version in told.values())
    return (threads is None or _are_counts([threads], least=1)) and (told is None or known)


def has(
    entry: Entry,
    *,
    counts: Sequence[str] = (),
    numbers: Sequence[str] = (),
    lists: Mapping[str, tuple[type, int]] = MappingProxyType({}),
) -> bool:
    """Whether an entry holds these counts, numbers, and lists of so many values of a type: bool, int or float.

    Values of int are classes and steps, -1 for none; those of float may be NaN.
    """
    listed = (isinstance(entry.get(name), list) and len(entry[name]) == n for name, (_, n) in lists.items())
    return (
        _are_counts([entry.get(name) for name in counts])
        and _are_numbers([entry.get(name) for name in numbers])
        and all(listed)
        and all(_CHECKS[kind](entry[name]) for name, (kind, _) in lists.items())
    )


def _are_counts(values: Sequence[object], least: int = 0) -> bool:
    return all(type(value) is int and least <= value < 2**31 for value in values)


def _are_numbers(values: Sequence[object]) -> bool:
    return all(type(value) is float or (type(value) is int and abs(value) < 2**53) for value in values)


_CHECKS: Mapping[type, Callable[[Sequence[object]], bool]] = {
    bool: lambda values: all(type(value) is bool for value in values),
    int: lambda values: _are_counts(values, least=-1),
    float: _are_numbers,
}


def fallen_in(entry: Entry) -> list[int]:
    """Rows of a block that the attack of this entry broke and none before it: those whose new class it names."""
    return [row for row, prediction in enumerate(entry["predicted"]) if prediction >= 0]
