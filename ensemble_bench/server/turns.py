"""Who may be at it now: each owner a few uploads at a time, whoever else has how many."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ensemble_bench.server.store import QuotaError

AGAIN = 10
"""Seconds after which one that was turned away may ask again."""


class Turns:
    """Lets `at_once` of an owner go on at a time, and `most` of one wait or go on."""

    def __init__(self, at_once: int, *, most: int) -> None:
        self._at_once, self._most = at_once, most
        self._owners: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn of `owner`, and hold it; raises QuotaError where enough of the owner's wait already."""
        gate, count = self._owners.get(owner, (asyncio.Semaphore(self._at_once), 0))
        if count >= self._most:
            raise QuotaError(f"{count} of your uploads are under way: wait for one", AGAIN)
        self._owners[owner] = gate, count + 1
        try:
            async with gate:
                yield
        finally:
            gate, count = self._owners.pop(owner)
            if count > 1:
                self._owners[owner] = gate, count - 1
