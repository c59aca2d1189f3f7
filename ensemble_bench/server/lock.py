"""Locks between processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ensemble_bench.errors import InvalidValueError


@contextmanager
def hold(path: Path, *, wait: float) -> Iterator[None]:
    """Hold the lock `path`, which ends with this process, however that ends.

    Raises InvalidValueError when another process still holds it after `wait` seconds.
    """
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except OSError as error:  # filelock.Timeout is one
        raise InvalidValueError(f"{path}: cannot be locked, another service runs there: {error}") from None
    try:
        yield
    finally:
        lock.release()
