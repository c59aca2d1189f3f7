"""One experiment a folder: a lock that its workers share, so that it outlives a killed command until they are gone."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemble_bench.errors import InvalidValueError

LOCK = ".reproduce.lock"
# The workers of a command that was killed end within moments.
WAIT = 5.0


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Hold the lock of `folder`, made if need be; yields its file descriptor, for processes to inherit.

    Raises InvalidValueError where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: Path) -> None:
    end = time.monotonic() + WAIT
    while True:
        try:
            # Of the open file and not of the process, as fcntl's other locks: children keep it.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise InvalidValueError(
                    f"{folder}: another reproduce is at work there: wait for it, or choose another --out"
                ) from None
            time.sleep(0.2)
        else:
            return
