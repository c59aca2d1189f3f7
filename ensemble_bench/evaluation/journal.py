"""The journal of an evaluation: every finished block of images is on disk before the next one starts.

Several processes may share an evaluation: each writes the journal of one block, and the evaluation itself takes over
what they all wrote.
"""

import json
import os
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """Finished work by (attack, block), kept in memory and, given a path, as lines of JSON that survive a kill.

    The first line names the evaluation; a journal of another one is discarded. A line that a crash cut short is
    cut off, so that its block is done again. `threads` are those that the evaluation began with, if that is known:
    another number could round otherwise in the blocks to come. With `only`, it is the journal of that block: it lies
    beside `path`, and calls the block 0, as a job of these images alone does. Without, it takes over the journals of
    blocks that lie beside it.
    """

    def __init__(
        self, path: Path | None, evaluation: str, *, threads: int | None = None, only: int | None = None
    ) -> None:
        self._path = path
        self._first = only or 0
        self.threads = threads
        self._entries: dict[tuple[str, int], Entry] = {}
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
        whole = self._read(path, evaluation) if path.exists() else 0
        with open(path, "ab") as file:
            file.truncate(whole)
        if whole == 0:
            self._append({"evaluation": evaluation} | ({} if threads is None else {"threads": threads}))

    def _read(self, path: Path, evaluation: str) -> int:
        """Take over the entries of `path`; returns how many of its bytes are whole lines of this evaluation."""
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or (whole == 0 and entry.get("evaluation") != evaluation):
                break
            if whole:
                self._entries[entry["attack"], entry["block"]] = entry
            else:
                self.threads = entry.get("threads")
            whole += len(line)
        return whole

    def get(self, attack: str, block: int) -> Entry | None:
        """Finished work on a block, or None."""
        return self._entries.get((attack, self._first + block))

    def put(self, attack: str, block: int, values: Entry) -> Entry:
        """Keep the work on a block; when this returns it is on disk."""
        entry = {"attack": attack, "block": self._first + block, **values}
        self._entries[attack, self._first + block] = entry
        if self._path is not None:
            self._append(entry)
        return entry

    def remove(self) -> None:
        """Delete the file and those that it took over, once the record stands."""
        for path in (self._path, *self._others):
            if path is not None:
                path.unlink(missing_ok=True)

    def _append(self, entry: Entry) -> None:
        assert self._path is not None
        with open(self._path, "ab") as file:
            file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
