"""Decoded images on disk, keyed by the content of the files that they were decoded from."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

# Raise it whenever decoding changes what it yields: older entries are then never read again.
FORMAT = 1


def cache_dir() -> Path:
    """Folder for what can be made again: ENSEMBLE_BENCH_CACHE, else ~/.cache/ensemble-bench."""
    chosen = os.environ.get("ENSEMBLE_BENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "ensemble-bench"


def content_key(root: Path, files: Iterable[Path], *, layout: str) -> str:
    """Return a hex key of the bytes of `files`, their order and their paths below `root`, read as `layout`.

    An edited, added, removed or renamed file gives another key, so that an entry is never out of date.
    """
    digest = hashlib.sha256(f"{FORMAT} {layout}\n".encode())
    above = len(str(root))
    # Plain open and str: Path's own ways take longer than the hash where there are 60,000 small files.
    for path in map(str, files):
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        digest.update(f"{path[above:]!r} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _path(key: str) -> Path:
    return cache_dir() / "decoded" / f"{key}.safetensors"


def read_entry(key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return (tensors, notes) kept under `key`, or None where there is nothing or only a damaged file.

    The tensors are mapped: a page of them is read when it is used.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # Opening checks that the file is as long as its header says, so a truncated one fails here.
        with safe_open(_path(key), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def write_entry(key: str, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Keep `tensors` and `notes` under `key`, as a whole or not at all; warns where the folder cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own for every writer: two at once both finish, and a killed one leaves no entry.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
            unfinished = Path(folder) / path.name
            save_file(tensors, unfinished, metadata=notes)
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"decoded images are not kept for the next time: cannot write {path} ({error})", stacklevel=2)
