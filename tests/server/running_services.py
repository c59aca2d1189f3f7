"""Services in threads, and what every answer of theirs keeps to."""

import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from services import Answer, uvicorn

from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.server.app import create_app
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store


@dataclass(frozen=True, kw_only=True)
class Service:
    settings: ServiceSettings
    store: Store
    port: int
    token: str

    def kept(self) -> list[str]:
        """Files of uploads, and ids in the queue."""
        folders = (self.settings.incoming, self.settings.uploads)
        return [*(str(path) for folder in folders for path in folder.rglob("*")), *self.store.pending()]


class Services:
    """Starts services in threads, and stops them all in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[tuple[object, threading.Thread]] = []

    def start(self, **changes: object) -> Service:
        settings = replace(ServiceSettings(data=self.folder / str(len(self.running))), **changes)
        settings.make_folders()
        build_site(settings.root, settings.site)
        store = Store(settings.store)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(settings, store), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        self.running.append((server, thread))
        port = listener.getsockname()[1]
        return Service(settings=settings, store=store, port=port, token=store.create_token("alice"))

    def stop(self) -> None:
        for server, thread in self.running:
            server.should_exit = True  # type: ignore[attr-defined]
            thread.join()


def refused(answer: Answer, status: int, text: str = "") -> None:
    """Check that an answer is a refusal of one line of JSON, with the headers of all answers."""
    assert answer.status == status
    assert set(answer.json) == {"detail"}
    assert text in answer.json["detail"]
    assert "\n" not in answer.json["detail"]
    assert "Traceback" not in answer.body.decode()
    protected(answer)


def protected(answer: Answer) -> None:
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
