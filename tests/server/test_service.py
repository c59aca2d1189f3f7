"""The real service in its own process: many at once, killed at random moments, and a worker that crashes."""

import contextlib
import itertools
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest
from live_service import BOARD, CALLS, WORKER
from sample_bundles import honest
from services import another, ask, free_port, start, submit

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.files import scratch_folder
from ensemble_bench.server.service import recover, serve
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store

KILLS = 20


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    settings = ServiceSettings(data=tmp_path)
    settings.make_folders()
    return settings


@contextlib.contextmanager
def running(settings: ServiceSettings, port: int, worker: str, attempts: int = 3) -> Iterator[None]:
    process = start(settings.data, port, worker, str(attempts))
    try:
        yield
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kept(settings: ServiceSettings) -> list[Path]:
    """What is left of submissions outside of the leaderboards."""
    return [path for folder in (settings.incoming, settings.uploads, settings.work) for path in folder.iterdir()]


@pytest.mark.slow
def test_200_at_once_are_all_queued_once(settings: ServiceSettings) -> None:
    store, port, path = Store(settings.store), free_port(), honest()
    tokens = [store.create_token(f"user{i}") for i in range(20)]
    gate = threading.Barrier(200)

    def one(i: int) -> str:
        gate.wait()
        answer = submit(port, tokens[i % 20], another(path, i))
        assert answer.status == 202
        assert ask(port, "GET", "/").status == 200
        told = ask(port, "GET", f"/api/submissions/{answer.json['id']}", token=tokens[i % 20])
        assert (told.status, told.json["status"]) == (200, "queued")
        return str(answer.json["id"])

    with running(settings, port, "none"), ThreadPoolExecutor(200) as pool:
        accepted = list(pool.map(one, range(200)))
    queued = []
    while submission := store.take():
        queued.append(submission.id)
    assert Counter(queued) == Counter(accepted)
    assert len(set(accepted)) == 200
    assert sorted(path.stem for path in settings.uploads.iterdir()) == sorted(accepted)
    assert not list(settings.incoming.iterdir())


@pytest.mark.slow
def test_killed_at_random_moments(settings: ServiceSettings) -> None:
    """Every answered upload ends on the board, once, whatever was killed when."""
    store, port, moments = Store(settings.store), free_port(), random.Random(0)
    token = store.create_token("alice")
    accepted: list[str] = []
    path, numbers = honest(), itertools.count()
    over = threading.Event()

    def keep_submitting() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(OSError, HTTPException):
                answer = submit(port, token, another(path, next(numbers)))
                assert answer.status == 202
                accepted.append(answer.json["id"])

    client = threading.Thread(target=keep_submitting)
    client.start()
    try:
        for _ in range(KILLS):
            process = start(settings.data, port, "fake", "1000")
            time.sleep(moments.uniform(0, 1.2))
            if moments.random() < 0.5 and (settings.data / WORKER).exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int((settings.data / WORKER).read_text()), signal.SIGKILL)
                time.sleep(moments.uniform(0, 0.1))
            process.kill()
            assert process.wait() == -signal.SIGKILL
        with running(settings, port, "fake", 1000):
            until(lambda: len(accepted) > KILLS)
            over.set()
            client.join()
            until(lambda: not store.pending() and not kept(settings))
    finally:
        over.set()
        client.join()
    told = {identifier: store.get(identifier) for identifier in accepted}
    assert all(submission is not None and submission.status == "verified" for submission in told.values())
    board = (settings.root / BOARD).read_text().splitlines()
    assert len(board) == len(set(board))
    assert set(accepted) <= set(board)
    # Beyond those answered, only uploads whose answer a kill cut off.
    assert len(board) <= len(accepted) + KILLS
    calls = Counter((settings.data / CALLS).read_text().splitlines())
    assert sum(calls.values()) - len(board) <= 2 * KILLS  # again only where a kill came between it and its verdict


def test_a_submission_that_crashes_the_worker_is_refused(settings: ServiceSettings) -> None:
    store, port = Store(settings.store), free_port()
    token = store.create_token("alice")
    with running(settings, port, "crash", attempts=2):
        identifier = submit(port, token, honest().read_bytes()).json["id"]
        until(lambda: not store.pending() and not kept(settings))
        told = ask(port, "GET", f"/api/submissions/{identifier}", token=token).json
    assert (told["status"], told["reasons"]) == (
        "refused",
        ["the verifier crashed at it, or ran out of memory, 2 times"],
    )


def test_one_service_on_one_folder(settings: ServiceSettings) -> None:
    with running(settings, free_port(), "none"):
        with pytest.raises(InvalidValueError, match="another service"):
            serve(settings, port=free_port())
        assert not list(settings.incoming.iterdir())


def test_a_port_in_use_is_one_line(settings: ServiceSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidValueError, match="cannot listen on"):
        serve(settings, port=taken.getsockname()[1])


def test_recover_removes_what_nobody_needs(settings: ServiceSettings) -> None:
    store = Store(settings.store)
    for identifier in ("runs", "waits", "done"):
        store.add(identifier, owner="alice", name="m", weights_hash="w")
        settings.upload(identifier).write_bytes(b"zip")
        (settings.work / identifier).mkdir()
    store.finish("done", "verified")
    store.take()
    (settings.incoming / "half.zip").write_bytes(b"z")
    (settings.uploads / "unanswered.zip").write_bytes(b"zip")
    (settings.data / ".site.1-ab.tmp").mkdir()
    (settings.root / ".placing.0123abcd.tmp").mkdir()
    for folder in (settings.root, settings.root / ".placing.0123abcd.tmp"):
        (folder / ".leaderboard.csv.0123abcd.tmp").write_bytes(b"h")
    recover(settings, store)
    assert sorted(path.stem for path in settings.uploads.iterdir()) == ["runs", "waits"]
    assert sorted(path.name for path in settings.work.iterdir()) == ["runs", "waits"]
    for folder in (settings.incoming, settings.root):
        assert not list(folder.iterdir())
    assert not list(settings.data.glob(".site*"))
    # The one that was under way is first again, and that it was is not held against it.
    assert [taken.id for taken in (store.take(), store.take()) if taken] == ["runs", "waits"]
    assert store.take() is None
    assert not store.crashed(1)


def test_recover_leaves_what_others_write_in_the_leaderboards(settings: ServiceSettings) -> None:
    """Such as a publication by `ensemble-bench submit`, which keeps there what it would put back."""
    board = settings.root / "digits" / "linf8of255"
    board.mkdir(parents=True)
    (board / ".notes.tmp").write_text("the operator's")
    with scratch_folder(board / "placing") as staging:
        (staging / "0.before").write_text("what stood there")
        recover(settings, Store(settings.store))
        assert (staging / "0.before").read_text() == "what stood there"
    assert [path.name for path in board.iterdir()] == [".notes.tmp"]
