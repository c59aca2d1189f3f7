"""Connections that say nothing shut nobody out: a time for the head of a request, and bounds on how many stand.

uvicorn waits for a head for ever, and its own bound on connections answers everybody with 503 once silent ones fill it.
What a proxy before the service adds is in docs/serving.md.
"""

import asyncio
from collections import Counter
from ipaddress import ip_address
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""In which the head of a request has to come, from the connection on or the answer before."""
HEAD_BYTES = 2**14
RESERVED = 128
"""Descriptors for the queue's file, the log and all else that is no connection."""
MOST = 2000
ACCEPTED = 16
"""Connections that are accepted before those that stand are looked at again."""
BACKLOG = 2048
"""Connections that the system keeps until they are accepted."""


def most_connections() -> int:
    """How many connections there are descriptors for, one more each for a file that is sent or received."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except ImportError:
        return MOST // 4
    return MOST if soft == resource.RLIM_INFINITY else max(8, min(MOST, (soft - RESERVED) // 2))


class Guard:
    """The connections of a service: at most `most`, and of an address `per_address`.

    Beyond `most` the oldest one that is silent gives way, or else the oldest that is busy without a token; without any
    such the new one is closed. Those of this machine are not counted by address: they may be a proxy's. Everything
    takes constant time.
    """

    def __init__(self, most: int, per_address: int) -> None:
        self.most, self.per_address = most, per_address
        self._addresses: Counter[str] = Counter()
        # In order of age; each connection is in one of them.
        self._silent: dict[GuardedProtocol, None] = {}
        self._strange: dict[GuardedProtocol, None] = {}
        self._known: dict[GuardedProtocol, None] = {}

    def __len__(self) -> int:
        return len(self._silent) + len(self._strange) + len(self._known)

    def enter(self, connection: "GuardedProtocol") -> bool:
        """Let a new connection in, closing another for it if need be; False if it has to be closed itself."""
        counted = self._counted(connection)
        if counted is not None and self._addresses[counted] >= self.per_address:
            return False
        if len(self) >= self.most:
            oldest = next(iter(self._silent or self._strange), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.transport.abort()
        if counted is not None:
            self._addresses[counted] += 1
        self._silent[connection] = None
        return True

    def place(self, connection: "GuardedProtocol", *, busy: bool, known: bool) -> None:
        """Note that a connection waits for a request or is busy with one, of somebody with a token or not."""
        target = (self._known if known else self._strange) if busy else self._silent
        if connection not in target and self._forget(connection):
            target[connection] = None

    def leave(self, connection: "GuardedProtocol") -> None:
        """Forget a connection that is closed; one that never came in is none."""
        counted = self._counted(connection)
        if self._forget(connection) and counted is not None:
            self._addresses[counted] -= 1
            if not self._addresses[counted]:
                del self._addresses[counted]

    def _forget(self, connection: "GuardedProtocol") -> bool:
        for group in (self._silent, self._strange, self._known):
            if connection in group:
                del group[connection]
                return True
        return False

    def _counted(self, connection: "GuardedProtocol") -> str | None:
        """What a connection is counted by: its address, in IPv6 the network of it; None for this machine's."""
        return None if connection.client is None else network_of(connection.client[0])


def network_of(address: str) -> str | None:
    """An IPv4 address, or the /64 of an IPv6 one, of which one caller has them all; None for this machine's."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    if found.is_loopback:
        return None
    return str(found) if found.version == 4 else f"{found.exploded[:19]}::/64"


class GuardedProtocol(H11Protocol):
    """A connection under a Guard, closed where the head of a request does not come in time."""

    guard: Guard
    head_seconds: float = HEAD_SECONDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.known = False
        self._timer: asyncio.TimerHandle | None = None
        # By which the application can tell who it is.
        self.app_state = {**self.app_state, "connection": self}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, if there is room."""
        super().connection_made(transport)
        if self.guard.enter(self):
            self._look()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        self.guard.leave(self)
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._look()

    def trust(self) -> None:
        """Its request came with a valid token: it does not give way while it is busy with that."""
        self.known = True
        self._look()

    def _look(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        self.guard.place(self, busy=busy, known=self.known)
        if busy:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """uvicorn's server, with a long queue of connections of which few are accepted at once.

    asyncio accepts as many as its queue holds before it looks at any of them, which takes more descriptors than there
    are; then it logs as many lines each second.
    """

    def __init__(self, app: Any, guard: Guard, **options: Any) -> None:
        protocol = type("Protocol", (GuardedProtocol,), {"guard": guard})
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                loop="asyncio",
                ws="none",
                server_header=False,
                backlog=ACCEPTED,
                h11_max_incomplete_event_size=HEAD_BYTES,
                **options,
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        """Listen, with the long queue."""
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
