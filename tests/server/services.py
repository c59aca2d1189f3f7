"""A client for services, and how to start a real one; what imports this is skipped without the extra [server]."""

import contextlib
import io
import json
import secrets
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the extra [server] is not installed")
pytest.importorskip("fastapi", reason="the extra [server] is not installed")

SERVICE = Path(__file__).with_name("live_service.py")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a service answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60.0,
) -> Answer:
    """Send one request, with the token and the type of an upload if there is a body."""
    sent = {} if body is None else {"Content-Type": "application/zip"}
    sent |= {} if token is None else {"Authorization": f"Bearer {token}"}
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=sent | (headers or {}))
        answer = connection.getresponse()
        return Answer(status=answer.status, headers={k.lower(): v for k, v in answer.getheaders()}, body=answer.read())
    finally:
        connection.close()


def submit(port: int, token: str | None, body: bytes, **options: Any) -> Answer:
    """Upload a bundle."""
    return ask(port, "POST", "/api/submissions", token=token, body=body, **options)


def another(path: Path, number: int) -> bytes:
    """A bundle that differs from the one at `path` by its card alone."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, str(number) if name == "README.md" else archive.read(name))
    return out.getvalue()


def free_port() -> int:
    """A port that nobody listens on now, below those of clients: one that knocks at its own would answer itself.

    Not from the seeded generator: tests in other processes would choose the same.
    """
    while True:
        port = 20000 + secrets.randbelow(12000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def start(data: Path, port: int, *options: str) -> "subprocess.Popen[bytes]":
    """Start the service and return once it answers."""
    with open(data / "service.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(SERVICE), str(data), str(port), *options], stdout=log, stderr=subprocess.STDOUT
        )
    for _ in range(600):
        try:
            if ask(port, "GET", "/api/leaderboard.csv").status == 200:
                return process
        except OSError:
            pass
        assert process.poll() is None, (data / "service.log").read_text()
        time.sleep(0.05)
    raise AssertionError("the service does not answer")
