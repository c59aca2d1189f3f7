"""What the service logs: no token, no line without end, and no more lines a minute than somebody could read."""

import logging
import re
import sys
import time
from collections.abc import Callable
from urllib.parse import unquote

LOGGER = logging.getLogger("ensemble_bench.server")
"""Faults that the operator is told of."""
LIMITED = ("uvicorn.error", "uvicorn.access", "asyncio", LOGGER.name)
LINES = 300
"""Of one logger in a minute."""
MINUTE = 60.0
LONGEST = 300
TOKEN = re.compile(r"(?<![A-Za-z0-9])eb_[A-Za-z0-9_-]{8,}")


class Limit(logging.Filter):
    """Lets `lines` through a minute, and says how many it left out; tokens in what a request names are cut out."""

    def __init__(self, lines: int = LINES, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines, self._clock = lines, clock
        self._start, self._count = clock(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line, which is made harmless."""
        now = self._clock()
        if now >= self._start + MINUTE:
            if self._count > self._lines:
                left = self._count - self._lines
                print(f"{record.name}: {left} lines of the log were left out", file=sys.stderr, flush=True)
            self._start, self._count = now, 0
        self._count += 1
        if self._count > self._lines:
            return False
        if isinstance(record.args, tuple):
            requests = record.name == "uvicorn.access"
            # Tokens are put behind the question mark by mistake.
            record.args = tuple(
                _harmless(value.partition("?")[0] if requests else value) if isinstance(value, str) else value
                for value in record.args
            )
        return True


def _harmless(text: str) -> str:
    """A text of bounded length without tokens, also where they are quoted as addresses are."""
    if TOKEN.search(unquote(text)):
        text = TOKEN.sub("eb_…", unquote(text)).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def limit_logs() -> None:
    """Bound what the service's loggers write from now on."""
    for name in LIMITED:
        logging.getLogger(name).addFilter(Limit())
