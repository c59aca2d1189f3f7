"""Sending bundles: to a service that answers, refuses, redirects or talks nonsense, and to the Hub."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from sample_bundles import files_of, honest, make_run, opened, zipped

from ensemble_bench.errors import BundleError, InvalidValueError
from ensemble_bench.submissions import targets
from ensemble_bench.submissions.submit import receive, submit
from ensemble_bench.submissions.targets import Receipt, push, status, upload, wait


class Service(BaseHTTPRequestHandler):
    """Takes token "good", and answers what `answers` holds for a path, in turn."""

    answers: ClassVar[dict[str, list[tuple[int, Any]]]] = {}
    seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, dict(self.headers), body))
        left = self.answers[self.path]
        code, content = left.pop(0) if len(left) > 1 else left[0]
        if self.headers["Authorization"] != "Bearer good":
            code, content = 401, {"detail": "unknown token"}
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service() -> Iterator[str]:
    Service.answers, Service.seen = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_of_no_target_is_no_folder() -> None:
    assert targets.is_service("https://example.org")
    assert not targets.is_service("hf://owner/name")
    assert not targets.is_service("leaderboards")
    with pytest.raises(InvalidValueError, match=r"'ftp://x': expected a folder, http://, https:// or hf://owner/name"):
        targets.is_service("ftp://x")


def test_an_upload_arrives_as_it_is_and_is_waited_for(service: str) -> None:
    Service.answers = {
        "/api/submissions": [(202, {"id": "17", "name": "mine", "status": "queued"})],
        "/api/submissions/17": [
            (200, {"id": "17", "status": "verifying"}),
            (200, {"id": "17", "status": "not reproduced", "reasons": ["robust accuracy is 0"]}),
        ],
    }
    receipt = upload(opened(), f"{service}/", token="good")
    assert receipt == Receipt(id="17", status="queued")
    ((method, _, headers, body),) = Service.seen
    assert (method, headers["Content-Type"], body) == ("POST", "application/zip", honest().read_bytes())
    heard: list[str] = []
    last = wait(service, receipt, token="good", pause=0.0, report=lambda now: heard.append(now.status))
    assert last == Receipt(id="17", status="not reproduced", reasons=("robust accuracy is 0",))
    assert heard == ["verifying", "not reproduced"]


def test_a_service_that_is_busy_or_gone_for_a_while_is_asked_again(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, queued = "/api/submissions/17", Receipt(id="17", status="queued")
    decided = 200, {"id": "17", "status": "verified"}
    Service.answers = {place: [(503, b""), (429, b""), (200, {"id": "17", "status": "verifying"}), (507, b""), decided]}
    assert wait(service, queued, token="good", pause=0.0).status == "verified"
    Service.answers = {place: [(403, {"detail": "not yours"}), decided]}
    with pytest.raises(BundleError, match="403"):
        wait(service, queued, token="good", pause=0.0)
    monkeypatch.setattr(targets, "PATIENCE", 0.0)
    Service.answers = {place: [(503, b""), decided]}
    with pytest.raises(BundleError, match="503"):
        wait(service, queued, token="good", pause=0.0)


def test_the_token_comes_from_the_environment(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Service.answers = {"/api/submissions/17": [(200, {"id": "17", "status": "verified"})]}
    monkeypatch.delenv(targets.TOKEN, raising=False)
    with pytest.raises(InvalidValueError, match="no token: pass --token or set ENSEMBLE_BENCH_TOKEN"):
        status(service, "17")
    monkeypatch.setenv(targets.TOKEN, "good")
    assert status(service, "17").status == "verified"
    with pytest.raises(InvalidValueError, match="no token"):
        status(service, "17", token="good\r\nX-Evil: 1")


@pytest.mark.parametrize(
    ("code", "content", "reason"),
    [
        (422, {"detail": "config.json: missing"}, "422 .*config.json: missing"),
        (429, b"slow down", "429 .*does not say why"),
        (302, b"", "302"),
        (200, b"<html>", "not an upload service"),
        (200, b" " * 2**20 + b'{"id": "1"}', "not an upload service"),
        (200, [], "its answer is no object"),
        (200, {"status": "queued"}, "has no id"),
        (200, {"id": "17", "status": "done"}, "submission 17 is 'done', .*: expected queued, verifying, verified"),
        (200, {"id": "17"}, "submission 17 is 'None'"),
        (500, {"detail": "\x1b[2J"}, r"500 .*\\x1b"),
    ],
)
def test_what_a_service_says_instead(service: str, code: int, content: Any, reason: str) -> None:
    Service.answers = {"/api/submissions": [(code, content)], "/elsewhere": [(200, {"id": "1"})]}
    with pytest.raises(BundleError, match=reason) as error:
        upload(opened(), service, token="good")
    assert len(Service.seen) == 1  # the token went nowhere else
    assert str(error.value).isprintable()


def test_a_wrong_token_and_no_service(service: str) -> None:
    Service.answers = {"/api/submissions": [(202, {"id": "1"})]}
    with pytest.raises(BundleError, match=r"401 .*unknown token"):
        upload(opened(), service, token="bad")
    with pytest.raises(BundleError, match="no answer"):
        upload(opened(), "http://127.0.0.1:9", token="good")
    places = ("http://example.org", "https://", "http://localhost/?x=1", "https://[::1", "https://example.org:x")
    for url in (*places, "https://me@example.org", "https://:password@example.org"):
        with pytest.raises(InvalidValueError, match="target is"):
            upload(opened(), url, token="good")


def test_a_proxy_that_httpx_cannot_use_is_one_line(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy")
    with pytest.raises(BundleError, match=r"no answer: .*proxy"):
        upload(opened(), service, token="good")


def test_a_bad_bundle_is_not_sent(service: str, tmp_path: Path) -> None:
    bad = zipped({"model.pkl": b""}, tmp_path / "bad.zip")
    with pytest.raises(BundleError, match=r"'model.pkl'"):
        submit(bad, service, token="good")
    assert Service.seen == []


def test_runs_are_bundled_on_the_way(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    made = receive(run, tmp_path / "made")
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == files_of(honest())
    for source in (honest(), made.folder):
        received = receive(source, tmp_path / f"from {source.name}")
        assert {path.name: path.read_bytes() for path in received.folder.iterdir()} == files_of(honest())
    best = receive(run / "best.safetensors", tmp_path / "of a checkpoint")
    assert (best.name, best.claims) == (made.name, made.claims)


class Hub:
    """Stands in for huggingface_hub.HfApi."""

    calls: ClassVar[list[tuple[str, Any]]] = []
    fails: ClassVar[bool] = False

    def create_repo(self, repository: str, **options: Any) -> None:
        self.calls.append((repository, options))

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> None:
        if self.fails:
            raise OSError("401 Client Error\nnot logged in")
        self.calls.append((repo_id, {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}))


def test_the_hub_gets_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=Hub))  # type: ignore[arg-type]
    monkeypatch.setattr(Hub, "calls", [])
    assert push(opened(), "hf://me/mine") == "https://huggingface.co/me/mine"
    assert Hub.calls == [
        ("me/mine", {"repo_type": "model", "exist_ok": True}),
        ("me/mine", files_of(honest())),
    ]
    for target in ("hf://mine", "hf://me/mine/more", "hf://", "hf://../x y"):
        with pytest.raises(InvalidValueError, match="hf://OWNER/NAME"):
            push(opened(), target)
    with pytest.raises(BundleError, match=r"'model.pkl'"):
        submit(zipped({"model.pkl": b""}, tmp_path / "bad.zip"), "hf://me/mine")
    monkeypatch.setattr(Hub, "fails", True)
    with pytest.raises(BundleError, match=r"hf://me/mine: .*not logged in"):
        push(opened(), "hf://me/mine")
    assert len(Hub.calls) == 3


def test_the_hubs_library_has_what_is_called() -> None:
    import inspect

    api = pytest.importorskip("huggingface_hub").HfApi
    assert {"repo_type", "exist_ok"} <= set(inspect.signature(api.create_repo).parameters)
    assert {"repo_id", "folder_path", "repo_type", "commit_message"} <= set(
        inspect.signature(api.upload_folder).parameters
    )
