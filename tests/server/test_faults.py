"""What is the bundle's fault is decided on for good; what is the machine's or its operator's is tried again."""

import errno
import itertools
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from full_disk import no_file_above
from sample_bundles import edited, files_of, honest, make_run, tree, zipped
from small_models import trained
from test_worker import Desk

from ensemble_bench.errors import AttackError, BundleError, BusyError, CheckpointError, DataError, RecordError
from ensemble_bench.server import store as memory
from ensemble_bench.server import uploads, worker
from ensemble_bench.server.worker import OWN_FAULT, judge, work_once
from ensemble_bench.submissions import publishing, verification
from ensemble_bench.submissions.bundling import bundle
from ensemble_bench.submissions.faults import is_of_machine, no_memory, no_space

FULL = OSError(errno.ENOSPC, "No space left on device")
TORCH = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


MACHINE = [
    FULL,
    OSError(errno.EMFILE, "Too many open files"),
    RecordError("records/x/record.json: is damaged"),
    DataError("no data set here"),
    BusyError("work: another evaluation is at work there"),
    MemoryError(),
    RuntimeError(TORCH),
    raised_from(AttackError("the model fails"), RuntimeError(TORCH)),
    raised_from(CheckpointError("cannot be written"), FULL),
    raised_from(BundleError("cannot be unpacked"), FULL),
]
BUNDLE = [
    BundleError("no bundle"),
    CheckpointError("not the weights"),
    AttackError("NaN logits"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    raised_from(BundleError("x.zip: cannot be read"), OSError(errno.EINVAL, "Invalid argument")),
]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "data")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time that the queue goes by."""
    now = [1000.0]
    monkeypatch.setattr(memory.time, "time", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def waiting(desk: Desk, path: Path, *, owner: str = "alice") -> str:
    """Put a bundle into the queue and leave it there."""
    submission = desk.queue(path, owner=owner)
    desk.store.requeue()
    return submission.id


def status(desk: Desk, identifier: str) -> tuple[str, tuple[str, ...]]:
    found = desk.store.get(identifier)
    assert found is not None
    return found.status, found.reasons


@pytest.mark.parametrize("error", MACHINE, ids=lambda e: type(e).__name__)
def test_a_fault_of_the_machine_is_no_verdict(
    desk: Desk, clock: Callable[[float], None], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert is_of_machine(error)
    first = waiting(desk, honest())
    second = waiting(desk, honest(), owner="bob")

    def fails(submission: object, *_: object) -> tuple[str, tuple[str, ...]]:
        if submission.id == first:  # type: ignore[attr-defined]
            raise error
        return "verified", ()

    assert work_once(desk.settings, desk.store, fails)
    assert status(desk, first) == ("queued", (OWN_FAULT,))
    assert type(error).__name__ in capsys.readouterr().err
    assert desk.settings.upload(first).is_dir()
    # The next goes on meanwhile, and this one is tried again later and later.
    assert work_once(desk.settings, desk.store, fails)
    assert status(desk, second)[0] == "verified"
    assert not work_once(desk.settings, desk.store, fails)
    waits = (30,) if no_memory(error) else (30, 60)
    for expected in waits:
        clock(expected - 1)
        assert not work_once(desk.settings, desk.store, fails)
        clock(1)
        assert work_once(desk.settings, desk.store, fails)
    clock(120)
    assert work_once(desk.settings, desk.store, lambda *_: ("verified", ()))
    assert status(desk, first) == ("verified", ())


@pytest.mark.parametrize("error", BUNDLE, ids=lambda e: type(e).__name__)
def test_a_fault_of_the_bundle_is_none_of_the_machine(error: Exception) -> None:
    assert not is_of_machine(error)


def test_one_that_always_runs_out_of_memory_is_refused(desk: Desk, clock: Callable[[float], None]) -> None:
    identifier = waiting(desk, honest())

    def greedy(*_: object) -> tuple[str, tuple[str, ...]]:
        raise MemoryError

    for _ in range(desk.settings.attempts):
        assert work_once(desk.settings, desk.store, greedy)
        clock(4000)
    assert not work_once(desk.settings, desk.store, greedy)
    assert status(desk, identifier)[0] == "refused"
    assert "memory" in status(desk, identifier)[1][0]


def test_a_damaged_record_elsewhere_on_the_board_refuses_nobody(
    desk: Desk, clock: Callable[[float], None], tmp_path: Path
) -> None:
    other = bundle(make_run(tmp_path / "other", trained(seed=1)), out=tmp_path / "other.zip")
    publishing.publish(
        verification.verify(other, work=tmp_path / "work"), tmp_path / "work" / "bundle", desk.settings.root
    )
    (path,) = desk.settings.root.rglob("record.json")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"n": 60', b'"n": 61'))
    before = tree(desk.settings.root)
    identifier = waiting(desk, honest())
    assert work_once(desk.settings, desk.store, judge)
    assert status(desk, identifier) == ("queued", (OWN_FAULT,))
    assert tree(desk.settings.root) == before
    assert desk.store.owner_of("mine") is None
    path.write_bytes(whole)
    clock(60)
    assert work_once(desk.settings, desk.store, judge)
    assert status(desk, identifier) == ("verified", ())


def test_a_disk_that_is_full_while_verifying_refuses_nobody(desk: Desk, clock: Callable[[float], None]) -> None:
    identifier = waiting(desk, honest())
    weights = desk.settings.upload(identifier) / "model.safetensors"
    original = worker.judge

    def on_a_full_disk(*args: object) -> tuple[str, tuple[str, ...]]:
        with no_file_above(weights.stat().st_size // 2):
            return original(*args)  # type: ignore[arg-type]

    assert work_once(desk.settings, desk.store, on_a_full_disk)
    assert status(desk, identifier) == ("queued", (OWN_FAULT,))
    assert not tree(desk.settings.root)
    clock(60)
    assert work_once(desk.settings, desk.store, judge)
    assert status(desk, identifier) == ("verified", ())


def test_a_disk_that_is_full_while_unpacking_is_no_bad_bundle(desk: Desk) -> None:
    upload = desk.settings.incoming / "upload.zip"
    shutil.copyfile(honest(), upload)
    with no_file_above(upload.stat().st_size // 10), pytest.raises(OSError, match="File too large") as caught:
        uploads.check(upload, desk.settings)
    assert no_space(caught.value)
    assert [path.name for path in desk.settings.incoming.iterdir()] == ["upload.zip"]


def test_a_verdict_that_cannot_be_written_is_written_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = waiting(desk, honest())
    real, tries, slept = desk.store.finish, itertools.count(1), list[float]()

    def full(*args: object) -> None:
        if next(tries) < 4:
            raise RecordError("service.sqlite: database or disk is full")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.store, "finish", full)
    monkeypatch.setattr(worker.time, "sleep", slept.append)
    assert work_once(desk.settings, desk.store, lambda *_: ("verified", ()))
    assert status(desk, identifier)[0] == "verified"
    assert slept == [1, 2, 4]


def test_a_bundle_that_lies_is_still_refused(desk: Desk, tmp_path: Path) -> None:
    files = edited(files_of(honest()), "config.json", lambda config: config["architecture"].update(width=2.0))
    identifier = waiting(desk, zipped(files, tmp_path / "lies.zip"))
    assert work_once(desk.settings, desk.store, judge)
    assert status(desk, identifier)[0] == "refused"


def test_a_queue_from_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "service.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE submissions (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, "
            "name TEXT NOT NULL, weights_hash TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'queued', "
            "reasons TEXT NOT NULL DEFAULT '[]', crashes INTEGER NOT NULL DEFAULT 0, submitted TEXT NOT NULL, "
            "changed TEXT NOT NULL)"
        )
        connection.execute(
            "INSERT INTO submissions (id, owner, name, weights_hash, submitted, changed) "
            "VALUES ('old', 'alice', 'm', 'w', '2026-01-01', '2026-01-01')"
        )
    store = memory.Store(path)
    taken = store.take()
    assert taken is not None
    assert (taken.id, store.postpone("old", "why")) == ("old", 30)
    assert memory.Store(path).pending() == {"old"}
