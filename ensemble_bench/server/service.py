"""The running service: an HTTP server, and beside it a worker that is started again whenever it ends."""

import shutil
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing import get_context

from anyio import to_thread
from fastapi import FastAPI

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.files import clear_leftovers
from ensemble_bench.locks import held
from ensemble_bench.server.app import Lifespan, create_app
from ensemble_bench.server.connections import BACKLOG, Guard, Server, most_connections
from ensemble_bench.server.logs import limit_logs
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store
from ensemble_bench.server.worker import FREED, LOCK, LONGEST_PAUSE, SERVICE, rebuild, work
from ensemble_bench.submissions import price

PAUSE = 1.0
"""Seconds between two looks at the worker."""
LIVED = 30.0
"""Seconds after which a worker that ended is replaced at once; the pauses between others double."""
GRACE = 5
"""Seconds that requests under way have to end when the service is stopped."""

Worker = Callable[[ServiceSettings], None]


def serve(
    settings: ServiceSettings, *, host: str = "127.0.0.1", port: int = 8000, worker: Worker | None = work
) -> None:
    """Serve until interrupted; with no `worker`, submissions wait for a service that has one.

    Raises InvalidValueError where it cannot listen, BusyError when another service runs on the same data.
    """
    settings.make_folders()
    with held(settings.data, SERVICE, name="service.lock", wait=0), _listening(host, port) as listener:
        store = Store(settings.store)
        with held(settings.data, SERVICE, name=LOCK, wait=FREED):
            recover(settings, store)
            rebuild(settings)
        price.load()
        app = create_app(settings, store, lifespan=_beside(worker, settings) if worker else None)
        print(f"the leaderboard and its API are at http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        guard = Guard(settings.max_connections or most_connections(), settings.connections_per_address)
        server = Server(app, guard, timeout_graceful_shutdown=GRACE)
        limit_logs()  # after uvicorn has set them up
        server.run(sockets=[listener])


def recover(settings: ServiceSettings, store: Store) -> None:
    """Clean up after a service that was killed: its verification waits again, files without a submission go."""
    store.requeue()
    pending = store.pending()
    leftovers = [
        *settings.incoming.iterdir(),
        *(path for path in settings.uploads.iterdir() if path.stem not in pending),
        *(path for path in settings.work.iterdir() if path.name not in pending),
        *settings.data.glob(f".{settings.site.name}.*"),
    ]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    # Others publish there too, and keep what is theirs: it may be the operator's own folder.
    for folder in {path.parent for path in settings.root.rglob(".*.tmp")}:
        clear_leftovers(folder)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises InvalidValueError where none can."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise InvalidValueError(f"cannot listen on {host}:{port}: {error}") from None


def _beside(worker: Worker, settings: ServiceSettings) -> Lifespan:
    """A lifespan of the application in which a worker is kept running."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stopping = threading.Event()
        keeper = threading.Thread(target=_keep, args=(worker, settings, stopping))
        keeper.start()
        try:
            yield
        finally:
            stopping.set()
            await to_thread.run_sync(keeper.join)

    return lifespan


def _keep(worker: Worker, settings: ServiceSettings, stopping: threading.Event) -> None:
    """Run `worker` in a process of its own, again and again: it may crash, the service may not."""
    pause = 0.0
    while not stopping.is_set():
        began = time.monotonic()
        process = get_context("spawn").Process(target=worker, args=(settings,))
        process.start()
        while process.is_alive() and not stopping.is_set():
            stopping.wait(PAUSE)
        if not stopping.is_set():
            # One that cannot work at all shall not fill the log.
            pause = 0.0 if time.monotonic() - began > LIVED else min(2 * pause or PAUSE, LONGEST_PAUSE)
            said = f"the worker ended with status {process.exitcode}: starting another"
            print(said, file=sys.stderr, flush=True)
            stopping.wait(pause)
        process.kill()  # safe at any moment
        process.join()
