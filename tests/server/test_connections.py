"""Silent connections and floods shut nobody out, and neither fills the log."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sample_bundles import honest
from services import another, ask, submit

from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.server.app import create_app
from ensemble_bench.server.connections import Guard, GuardedProtocol, Server, most_connections, network_of
from ensemble_bench.server.logs import LINES, Limit
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store


class Fake:
    """What the guard sees of a connection."""

    def __init__(self, address: str = "192.0.2.1") -> None:
        self.client = (address, 1)
        self.transport = self
        self.closed = False

    def abort(self) -> None:
        self.closed = True


@contextmanager
def service(folder: Path, *, head_seconds: float = 60.0, most: int = 20) -> Iterator[tuple[int, Store, Guard]]:
    """A service on real HTTP, with its guard."""
    settings = ServiceSettings(data=folder)
    settings.make_folders()
    build_site(settings.root, settings.site)
    store, guard = Store(settings.store), Guard(most, 32)
    server = Server(create_app(settings, store), guard, log_level="critical")
    server.config.http.head_seconds = head_seconds  # type: ignore[union-attr]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1], store, guard
        finally:
            server.should_exit = True
            thread.join()


def fakes(count: int, address: Callable[[int], str]) -> list[Any]:
    return [Fake(address(i)) for i in range(count)]


def test_the_oldest_silent_one_gives_way() -> None:
    guard = Guard(3, 10)
    first, second, third, fourth, fifth, sixth = fakes(6, lambda i: f"192.0.2.{i}")
    assert all(map(guard.enter, (first, second, third)))
    guard.place(first, busy=True, known=True)
    guard.place(second, busy=True, known=False)
    assert guard.enter(fourth)
    assert [c.closed for c in (first, second, third, fourth)] == [False, False, True, False]
    guard.place(fourth, busy=True, known=False)
    assert guard.enter(fifth)  # none is silent: the oldest that is busy without a token
    assert (second.closed, len(guard)) == (True, 3)
    for connection in (fourth, fifth):
        guard.place(connection, busy=True, known=True)
    assert not guard.enter(sixth)
    assert not any(c.closed for c in (first, fourth, fifth))
    # One that waits for its next request is silent again; one that left is placed nowhere.
    guard.place(first, busy=False, known=True)
    assert guard.enter(sixth)
    assert first.closed
    guard.place(first, busy=True, known=True)
    assert len(guard) == 3


def test_an_address_has_so_many() -> None:
    guard = Guard(100, 2)
    ours = fakes(10, lambda _: "127.0.0.1")
    theirs = fakes(5, lambda i: f"2001:db8:0:1::{i}")
    assert all(map(guard.enter, ours))  # a proxy's
    assert [guard.enter(connection) for connection in theirs] == [True, True, False, False, False]
    assert guard.enter(Fake("2001:db8:0:2::1"))  # type: ignore[arg-type]
    guard.leave(theirs[4])  # it never came in
    guard.leave(theirs[0])
    guard.leave(theirs[0])
    assert [guard.enter(connection) for connection in theirs[2:4]] == [True, False]
    for connection in (*ours, *theirs):
        guard.leave(connection)
    assert len(guard) == 1
    assert len(guard._addresses) == 1


def test_addresses_of_one_caller_are_one() -> None:
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:0db8:0000:0000::/64"
    assert network_of("::1") is network_of("127.0.0.9") is network_of("::ffff:127.0.0.1") is None
    assert network_of("unix") == "unix"


def test_there_are_descriptors_for_all_of_them() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert most_connections() == 64
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_silent_connections_shut_nobody_out(tmp_path: Path) -> None:
    """Many more than may stand, none of which sends anything, or only half a head; users get their answers."""
    with service(tmp_path) as (port, store, guard):
        token = store.create_token("alice")
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        try:
            for connection in silent[::2]:
                with contextlib.suppress(OSError):  # it gave way
                    connection.sendall(b"GET / HTTP/1.1\r\nX-Half: ")
            assert ask(port, "GET", "/").status == 200
            assert submit(port, token, honest().read_bytes()).status == 202
            assert submit(port, token, another(honest(), 1)).status == 202
            assert len(guard) <= 20
        finally:
            for connection in silent:
                connection.close()


def test_a_head_has_to_come_in_time(tmp_path: Path) -> None:
    with service(tmp_path, head_seconds=0.2) as (port, _, _):
        for sent in (b"", b"GET / HT", b"GET /index.html HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX: "):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(sent)
                answer = b""
                with contextlib.suppress(ConnectionResetError):
                    while part := connection.recv(65536):
                        answer += part
                assert (b"200 OK" in answer) == (b"index" in sent)
        assert ask(port, "GET", "/").status == 200


def test_a_slow_answer_is_no_slow_head(tmp_path: Path) -> None:
    """A request that is under way is not closed for want of a head."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0.6)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    guard = Guard(5, 5)
    server = Server(slow, guard, log_level="critical", lifespan="off")
    server.config.http.head_seconds = 0.1  # type: ignore[union-attr]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ask(listener.getsockname()[1], "GET", "/").status == 200
        finally:
            server.should_exit = True
            thread.join()


def test_the_time_for_a_head_is_settled() -> None:
    assert 0 < GuardedProtocol.head_seconds <= 30


def record(message: str, *args: object, name: str = "uvicorn.access") -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, __file__, 1, message, args, None)


def test_a_log_has_so_many_lines_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    limit = Limit(3, clock=lambda: now)
    assert [limit.filter(record("%s", "x")) for _ in range(10)] == [True] * 3 + [False] * 7
    assert capsys.readouterr().err == ""
    now = 60.0
    assert limit.filter(record("%s", "x"))
    assert capsys.readouterr().err == "uvicorn.access: 7 lines of the log were left out\n"
    assert LINES < 1000


@pytest.mark.parametrize(
    "path",
    [
        "/api/submissions?token={}",
        "/{}",
        "/api/submissions/x%2f{}",
        "/{quoted}",
        "/a" * 9000,
    ],
)
def test_the_log_holds_no_token(path: str) -> None:
    token = "eb_" + "Ab-_9" * 8
    quoted = "".join(f"%{ord(c):02x}" for c in token)
    for method in (path.format(token, quoted=quoted), path.format(token, quoted=quoted.upper().replace("%", "%"))):
        line = record('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", method, "1.1", 200)
        assert Limit().filter(line)
        said = line.getMessage()
        assert token not in said
        assert quoted not in said
        assert "Ab-_9" not in said
        assert "\n" not in said
        assert len(said) < 500
