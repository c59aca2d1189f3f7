"""Locks between processes: one at work in a folder at a time, and none for longer than its process lives."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ensemble_bench.errors import BusyError, InvalidValueError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# The workers of a command that was killed end within moments.
WAIT = 5.0
PAUSE = 0.1
BUSY = -1
# Nothing can be written there, which whatever tries to will say; or a file system that has no such locks.
_UNLOCKABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(
    folder: Path,
    what: str,
    *,
    or_else: str = "",
    name: str = LOCK,
    shared: bool = False,
    wait: float | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[int | None]:
    """Hold a lock of `folder`, made if need be; yields its file descriptor, which processes may inherit.

    It ends with this process and all that inherited it, however they end. Several may hold a `shared` one at once,
    which keeps those out who want it alone. `waiting` is called once if another holds it. Raises BusyError,
    saying that another `what` is at work and to wait for it `or_else`, if one still is after `wait` seconds (None:
    WAIT). A folder that cannot be written to, or on a file system without locks, is not locked: then None is yielded.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidValueError(f"{folder} is no folder, and cannot be made one ({error.strerror})") from None
    if fcntl is None:
        yield None
        return
    descriptor = _acquired(folder / name, shared, WAIT if wait is None else wait, waiting)
    if descriptor == BUSY:
        raise BusyError(f"{folder}: another {what} is at work there: wait for it{or_else}")
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            _release(descriptor, folder / name)


def lock_alone(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder alone; False where another has it locked, without `wait`, or nothing can be."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        there = os.stat(path)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _acquired(path: Path, shared: bool, wait: float, waiting: Callable[[], None]) -> int | None:
    """The descriptor of the locked file at `path`, BUSY if another still has it, None where nothing can be locked."""
    end: float | None = None
    while True:
        try:
            if (descriptor := _tried(path, shared=shared)) is not None:
                return descriptor
        except OSError as error:
            if error.errno in _UNLOCKABLE:
                return None
            raise
        if end is None:
            end = time.monotonic() + wait
            waiting()
        elif time.monotonic() > end:
            return BUSY
        time.sleep(PAUSE)


def _tried(path: Path, *, shared: bool) -> int | None:
    """The descriptor of the file at `path`, locked; None where another process has it, or has just removed it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if _flock(descriptor, shared=shared) and is_at(descriptor, path):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _flock(descriptor: int, *, shared: bool) -> bool:
    assert fcntl is not None
    try:
        # Of the open file and not of the process, as fcntl's other locks: children keep it.
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(descriptor: int, path: Path) -> None:
    """Let go of a lock, and remove its file where nobody else holds it."""
    with contextlib.suppress(OSError):
        if lock_alone(descriptor) and is_at(descriptor, path):
            path.unlink()
    os.close(descriptor)
