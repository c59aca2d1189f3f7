"""How often a caller may ask.

The library `limits` counts in the same windows, by the wall clock and with a thread of its own, in no less code.
"""

import threading
import time
from collections.abc import Callable

MINUTE = 60.0
MANY = 100_000
"""Callers to remember at most: beyond, those whose minute began first are forgotten early."""


class RateLimit:
    """Counts the requests of each caller in minutes that begin with the caller's first; `clock` tells seconds.

    A request takes constant time, however many callers there are: each is forgotten once.
    """

    def __init__(
        self, requests_per_minute: int, *, clock: Callable[[], float] = time.monotonic, callers: int = MANY
    ) -> None:
        self._most = requests_per_minute
        self._clock = clock
        self._callers = callers
        self._lock = threading.Lock()
        # In the order in which their minutes began.
        self._minutes: dict[str, tuple[float, int]] = {}

    def wait(self, caller: str) -> float:
        """Count a request of `caller`, and return how many seconds too early it comes: 0 if it may be answered."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            start, count = self._minutes.get(caller, (now, 0))
            self._minutes[caller] = (start, count + 1)
            return 0.0 if count < self._most else start + MINUTE - now

    def _forget(self, now: float) -> None:
        """Drop the callers whose minute is over, and the first where there are too many."""
        while self._minutes:
            first = next(iter(self._minutes))
            if now < self._minutes[first][0] + MINUTE and len(self._minutes) < self._callers:
                return
            del self._minutes[first]
