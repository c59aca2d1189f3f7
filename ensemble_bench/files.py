"""Files that are either wholly there or not at all, and their content hashes."""

import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ensemble_bench.locks import is_at, lock_alone

LEFTOVER = re.compile(r"\..+\.(\d+-)?[0-9a-f]{8}\.tmp")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) so that a crash at any moment leaves the old file or the new one, never a part.

    Makes the parent directories. Raises OSError as the file system does; the old file then still stands.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write part by part, which becomes `path` when the block ends, as `write_atomic` says."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    with naming(path), contextlib.ExitStack() as locks:
        try:
            with open(temporary, "xb") as file:
                locks.enter_context(_in_use(temporary))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError inside the block name `path`: of a full disk, a write to an open file says no name itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it becomes the new or empty `folder` when the block ends, or is removed if that raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as temporary:
        yield temporary
        temporary.replace(folder)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, to make that in, which is gone when the block ends."""
    temporary = _temporary(path)
    with naming(path):
        temporary.mkdir()
        try:
            with _in_use(temporary):
                yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes had half written in `folder`, of the file or folder called `name` or of all.

    What a living process is writing is locked, and stays.
    """
    for path in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.tmp"):
        with contextlib.suppress(OSError), _opened(path) as descriptor:
            if LEFTOVER.fullmatch(path.name) and lock_alone(descriptor) and is_at(descriptor, path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _temporary(path: Path) -> Path:
    """A new name beside `path`, in the same folder because a rename is atomic only within one file system."""
    clear_leftovers(path.parent, path.name)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def _in_use(path: Path) -> Iterator[None]:
    """Keep a new file or folder from being cleared away as a leftover."""
    with contextlib.ExitStack() as locks:
        with contextlib.suppress(OSError):  # a system that cannot open a folder
            lock_alone(locks.enter_context(_opened(path)), wait=True)
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Content hash of a file as "sha256:<64 hex digits>"; raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def sha256_bytes(data: bytes) -> str:
    """Content hash of `data`, equal to `sha256_file` of a file that holds it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut; file systems that cannot sync a directory go without."""
    with contextlib.suppress(OSError), _opened(directory) as descriptor:
        os.fsync(descriptor)
