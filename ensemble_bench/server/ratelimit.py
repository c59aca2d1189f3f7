"""How often a caller may ask.

The library `limits` counts in the same windows, by the wall clock and with a thread of its own, in no less code.
"""

import threading
import time
from collections.abc import Callable

MINUTE = 60.0
# Callers to remember before those whose minute is over are forgotten.
MANY = 1000


class RateLimit:
    """Counts the requests of each caller in minutes that begin with the caller's first; `clock` tells seconds."""

    def __init__(self, requests_per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = requests_per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: dict[str, tuple[float, int]] = {}

    def wait(self, caller: str) -> float:
        """Count a request of `caller`, and return how many seconds too early it comes: 0 if it may be answered."""
        with self._lock:
            now = self._clock()
            if len(self._minutes) > MANY:
                self._minutes = {key: value for key, value in self._minutes.items() if now < value[0] + MINUTE}
            start, count = self._minutes.get(caller, (now, 0))
            if now >= start + MINUTE:
                start, count = now, 0
            self._minutes[caller] = (start, count + 1)
            return 0.0 if count < self._most else start + MINUTE - now
