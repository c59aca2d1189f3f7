"""Ctrl-C between steps, never inside one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred() -> Iterator[None]:
    """Delay Ctrl-C until the block ends, so that weights, momenta and files are changed completely or not at all."""
    previous = signal.getsignal(signal.SIGINT)
    # Only the main thread receives signals, and a handler that is not a Python function cannot be restored.
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if pressed:
            previous(*pressed[-1])
