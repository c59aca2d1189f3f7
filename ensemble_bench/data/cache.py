"""A cache of decoded images on disk; the key is a hash of the files that they were decoded from."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ensemble_bench.files import scratch_folder

# To be raised whenever decoding gives other images: entries of an older number are never read.
FORMAT = 1


def cache_dir() -> Path:
    """Folder for files that can be made again: ENSEMBLE_BENCH_CACHE, else ~/.cache/ensemble-bench."""
    chosen = os.environ.get("ENSEMBLE_BENCH_CACHE")
    return Path(os.path.expanduser(chosen)) if chosen else Path.home() / ".cache" / "ensemble-bench"


def content_key(root: Path, files: Iterable[Path], *, layout: str) -> str:
    """Return a hex key of `layout`, of the bytes and the order of `files`, and of their paths below `root`.

    An edited, added, removed or renamed file gives another key, so that an entry is never out of date.
    """
    digest = hashlib.sha256(f"{FORMAT} {layout}\n".encode())
    above = len(str(root))
    # Plain open and str: for 60,000 small files, Path's methods take longer than the hash.
    for path in map(str, files):
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        digest.update(f"{path[above:]!r} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _path(key: str) -> Path:
    return cache_dir() / "decoded" / f"{key}.safetensors"


def read_entry(key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the (tensors, notes) stored under `key`, None if there are none or their file is damaged.

    The tensors are memory-mapped: a page is read from disk when it is used.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # Opening checks that the file is as long as its header says, so a truncated one fails here.
        with safe_open(_path(key), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def write_entry(key: str, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Store `tensors` and `notes` under `key`, atomically; warns if the folder cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every writer has its own folder: two at once do not disturb each other, and a killed one leaves no entry.
        with scratch_folder(path) as folder:
            unfinished = folder / path.name
            save_file(tensors, unfinished, metadata=notes)
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"decoded images are not kept for the next time: cannot write {path} ({error})", stacklevel=2)
