"""Ctrl-C and SIGTERM between steps, never inside one."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

SIGINT, SIGTERM = int(signal.SIGINT), int(signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object]


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
    previous = _handler(number)
    if previous is None:
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


class Held:
    """Signals that wait."""

    def __init__(self, handlers: Mapping[int, Handler]) -> None:
        self._handlers = handlers
        self._received: list[int] = []

    @property
    def waiting(self) -> int:
        """Number of the most urgent signal that waits, 0 for none."""
        return max(self._received, default=0)  # SIGTERM, 15, before Ctrl-C, 2

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Let a signal wait."""
        self._received.append(number)

    def handle(self, number: int) -> None:
        """Do what this process does at such a signal, at least raise KeyboardInterrupt; none waits any more."""
        self._received.clear()
        if number in self._handlers:
            self._handlers[number](number, None)
        raise KeyboardInterrupt

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Handle signals at once inside the block, those that wait first."""
        if self.waiting:
            self.handle(self.waiting)
        _install(self._handlers)
        try:
            yield
        finally:
            _install(dict.fromkeys(self._handlers, self.note))


@contextmanager
def held() -> Iterator[Held]:
    """Let both signals wait inside the block, as `deferred`, until `Held.handle` is called, or the block ends."""
    handlers = {number: handler for number in (SIGTERM, SIGINT) if (handler := _handler(number))}
    signals = Held(handlers)
    _install(dict.fromkeys(handlers, signals.note))
    try:
        yield signals
    finally:
        _install(handlers)
    if signals.waiting:
        handlers[signals.waiting](signals.waiting, None)


def _install(handlers: Mapping[int, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _handler(number: int) -> Handler | None:
    """What handles a signal: None outside the main thread, which alone receives them, and where it is no function."""
    # A handler that is not a Python function cannot be restored.
    handler = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return None
    return handler
