"""Ctrl-C and SIGTERM between steps, never inside one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `kill`, `timeout` and batch systems send it: it stops a job as Ctrl-C does."""


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM raise Terminated inside the block, unless something else handles or ignores it already.

    Yields a function that says whether this happened.
    """
    received: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Terminated

    def happened() -> bool:
        return bool(received)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield happened
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield happened
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[None]:
    """Delay both signals until the block ends, so that weights, momenta and files are changed completely or not at all.

    SIGTERM is delayed where it raises an exception, as inside `terminable`; elsewhere it ends the process at once.
    """
    with _deferred(signal.SIGTERM), _deferred(signal.SIGINT):
        yield


@contextmanager
def _deferred(number: int) -> Iterator[None]:
    previous = signal.getsignal(number)
    # Only the main thread receives signals, and a handler that is not a Python function cannot be restored.
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    signal.signal(number, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(number, previous)
        if received:
            previous(*received[-1])
