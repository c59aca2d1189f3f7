"""Uploads, over real HTTP."""

import asyncio
import errno
import hashlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from running_services import Service, Services, refused
from sample_bundles import claiming_32_times, edited, files_of, honest, tree, zipped
from services import another, ask, submit

from ensemble_bench.errors import RecordError
from ensemble_bench.server import uploads
from ensemble_bench.server.store import Store
from ensemble_bench.submissions.format import archive
from ensemble_bench.submissions.format.limits import Limits


@pytest.fixture(scope="module")
def small(services: Services) -> Service:
    """A service that takes little."""
    return services.start(limits=Limits(max_bytes=1000))


def test_a_submission_is_accepted_and_told_to_its_owner(services: Services) -> None:
    service, body = services.start(), honest().read_bytes()
    answer = submit(service.port, service.token, body)
    assert answer.status == 202
    told = answer.json
    assert (told["name"], told["status"]) == ("mine", "queued")
    kept = service.settings.upload(told["id"])
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == files_of(honest())
    assert service.store.pending() == {told["id"]}
    assert not list(service.settings.incoming.iterdir())
    where = f"/api/submissions/{told['id']}"
    now = ask(service.port, "GET", where, token=service.token)
    assert now.status == 200
    assert {key: now.json[key] for key in ("id", "name", "status", "reasons")} == told | {"reasons": []}
    service.store.finish(told["id"], "refused", ["because"])
    assert ask(service.port, "GET", where, token=service.token).json["reasons"] == ["because"]
    # Another's, nobody's, and those without a token.
    other = service.store.create_token("bob")
    refused(ask(service.port, "GET", where, token=other), 403, "another's")
    refused(ask(service.port, "GET", where), 401)
    refused(ask(service.port, "GET", f"/api/submissions/{'0' * 32}", token=service.token), 404)
    refused(ask(service.port, "GET", "/api/submissions/..%2f..", token=service.token), 404)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic {}", "{}", "Bearer {}x", "Token {}"]
)
def test_no_token_no_upload(service: Service, header: str) -> None:
    sent = {"Authorization": header.format(service.token)} if header else {}
    answer = submit(service.port, None, honest().read_bytes(), headers=sent)
    refused(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not service.kept()


def test_a_revoked_token_is_forbidden(services: Services) -> None:
    service = services.start()
    service.store.revoke_token("alice")
    refused(submit(service.port, service.token, honest().read_bytes()), 403, "revoked")
    refused(ask(service.port, "GET", "/api/submissions/x", token=service.token), 403, "revoked")
    assert not service.kept()


def test_tokens_are_on_the_disk_as_hashes_only(service: Service) -> None:
    held = b"".join(content or b"" for content in tree(service.settings.data).values())
    assert hashlib.sha256(service.token.encode()).hexdigest().encode() in held
    assert service.token.encode() not in held


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data; boundary=x", "application/zipx"])
def test_another_type_is_refused(service: Service, kind: str) -> None:
    refused(submit(service.port, service.token, b"x", headers={"Content-Type": kind}), 415, "application/zip")
    assert not service.kept()


def test_a_length_is_required(service: Service) -> None:
    refused(submit(service.port, service.token, iter([b"x", b"y"])), 411, "Content-Length")
    assert not service.kept()


def test_too_many_bytes_are_refused(small: Service) -> None:
    refused(submit(small.port, small.token, bytes(1001)), 413, "1000")
    refused(submit(small.port, small.token, bytes(1000)), 422)
    # One that only says that it is large, and waits to be told to go on, is told at once.
    head = {"Content-Length": str(2**40), "Expect": "100-continue"}
    refused(submit(small.port, small.token, b"", headers=head, timeout=20), 413)
    assert not small.kept()


def test_bytes_are_counted_whatever_was_announced(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(300)

    with pytest.raises(uploads.TooLargeError):
        asyncio.run(uploads.receive(endless(), tmp_path / "upload", 1000))
    assert (tmp_path / "upload").stat().st_size <= 1000


def test_a_large_upload_hears_why_it_is_refused(service: Service) -> None:
    """A client that reads no answer before it has sent everything, and is done then, as urllib is."""
    refused(submit(service.port, "wrong", bytes(20 * 2**20), headers={"Connection": "close"}), 401)


def test_an_upload_cut_short_leaves_nothing(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = f"POST /api/submissions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token}\r\n"
        connection.sendall(f"{head}Content-Type: application/zip\r\nContent-Length: 1000\r\n\r\nPK".encode())
        until = time.monotonic() + 60
        while not list(service.settings.incoming.iterdir()) and time.monotonic() < until:
            time.sleep(0.01)
        assert list(service.settings.incoming.iterdir())
    while service.kept() and time.monotonic() < until:
        time.sleep(0.01)
    assert not service.kept()


def test_no_bundle_is_refused_at_once_with_its_reason(service: Service, tmp_path: Path) -> None:
    files = files_of(honest())
    missing = {name: content for name, content in files.items() if name != "README.md"}
    climbing = files | {"../evil": b""}
    scripted = edited(files, "claims.json", lambda claims: claims.update(name="<script>alert(1)</script>"))
    pickled = files | {"model.safetensors": b"\x80\x04\x95" + files["model.safetensors"]}
    for content, reason in (
        (missing, "README.md"),
        (climbing, "evil"),
        (scripted, "which no text may"),
        (pickled, "pickle"),
    ):
        body = zipped(content, tmp_path / "bad.zip").read_bytes()
        answer = submit(service.port, service.token, body)
        refused(answer, 422, reason)
        assert str(service.settings.data) not in answer.json["detail"]
    for body in (b"", b"PK", b"\x80\x04\x95", honest().read_bytes()[:-30]):
        refused(submit(service.port, service.token, body), 422)
    assert not service.kept()
    assert not (service.settings.data.parent / "evil").exists()


def test_limits_of_the_model_are_settable(services: Services, tmp_path: Path) -> None:
    service = services.start(limits=Limits(max_parameters=10))
    refused(submit(service.port, service.token, honest().read_bytes()), 422, "10")
    assert not service.kept()


def test_an_upload_that_cannot_be_queued_leaves_nothing(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    service = services.start()
    monkeypatch.setattr(Store, "add", lambda *_, **__: 1 / 0)
    answer = submit(service.port, service.token, honest().read_bytes())
    refused(answer, 500, "internal error")
    assert not service.kept()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 507),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 507),
        (OSError(errno.EFBIG, "File too large"), 507),
        (RecordError("service.sqlite: database or disk is full"), 507),
        (OSError(errno.EIO, "Input/output error"), 503),
        (OSError(errno.EMFILE, "Too many open files"), 503),
        (RecordError("service.sqlite: database is locked"), 503),
        (MemoryError(), 503),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("place", ["fsync", "write", "add", "find_token"])
def test_a_fault_of_the_machine_is_told_as_one(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, place: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    where = {"fsync": (uploads.os, "fsync"), "write": (archive, "_copy")}.get(place, (Store, place))
    monkeypatch.setattr(*where, fails)
    answer = submit(service.port, service.token, honest().read_bytes())
    refused(answer, status)
    assert int(answer.headers["retry-after"]) > 0
    assert "sqlite" not in answer.json["detail"]
    monkeypatch.undo()
    assert not service.kept()


def test_equal_uploads_of_one_owner_are_one(services: Services, tmp_path: Path) -> None:
    service = services.start()
    one, two = another(honest(), 1), another(honest(), 2)
    first = submit(service.port, service.token, one).json
    assert submit(service.port, service.token, one).json == first
    # The same files, packed in another order.
    (tmp_path / "one.zip").write_bytes(one)
    files = dict(reversed(files_of(tmp_path / "one.zip").items()))
    assert submit(service.port, service.token, zipped(files, tmp_path / "again.zip").read_bytes()).json == first
    other = service.store.create_token("bob")
    ids = {
        first["id"],
        submit(service.port, service.token, two).json["id"],
        submit(service.port, other, one).json["id"],
    }
    assert len(ids) == 3
    assert service.store.pending() == ids == {path.name for path in service.settings.uploads.iterdir()}
    # What was not reproduced may be tried again.
    service.store.finish(first["id"], "not reproduced")
    assert submit(service.port, service.token, one).json["id"] != first["id"]


def test_an_owner_has_a_quota(services: Services) -> None:
    service = services.start(max_pending=2, max_daily=3)
    sent = [another(honest(), i) for i in range(4)]
    ids = [submit(service.port, service.token, body).json["id"] for body in sent[:2]]
    answer = submit(service.port, service.token, sent[2])
    refused(answer, 429, "no verdict yet")
    assert int(answer.headers["retry-after"]) > 0
    assert submit(service.port, service.store.create_token("bob"), sent[2]).status == 202
    service.store.finish(ids[0], "verified")
    service.store.finish(ids[1], "refused")
    assert submit(service.port, service.token, sent[2]).status == 202
    answer = submit(service.port, service.token, sent[3])
    refused(answer, 429, "24 hours")
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert len(list(service.settings.uploads.iterdir())) == 4


def test_what_would_take_too_long_is_refused_with_its_price(services: Services, tmp_path: Path) -> None:
    service = services.start()
    expensive = zipped(claiming_32_times(files_of(honest())), tmp_path / "expensive.zip")
    refused(submit(service.port, service.token, expensive.read_bytes()), 422, "FLOPs")
    assert not service.kept()
    assert submit(service.port, service.token, honest().read_bytes()).status == 202
