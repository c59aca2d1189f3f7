"""Files that are either wholly there or not at all, and their content hashes (stdlib only)."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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
    # In the same directory, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it becomes the new or empty `folder` when the block ends, or is removed if that raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sha256_file(path: Path) -> str:
    """Content hash of a file as "sha256:<64 hex digits>"; raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def sha256_bytes(data: bytes) -> str:
    """Content hash of `data`, equal to `sha256_file` of a file that holds it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut; file systems that cannot sync a directory go without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
