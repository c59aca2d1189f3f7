"""On its way from a run or a file to a board, a bundle is unpacked at most once, and its weights are checked once."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from sample_bundles import claiming, files_of, honest, make_run, scored, tree, zipped

from ensemble_bench.errors import BundleError, InvalidValueError
from ensemble_bench.server import uploads
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store
from ensemble_bench.server.worker import judge
from ensemble_bench.submissions import targets
from ensemble_bench.submissions.format import archive, tensors
from ensemble_bench.submissions.submit import Publication, submit

ONCE = {"extract": 1, "check_tensors": 1}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> "Counter[str]":
    """How often a bundle was unpacked, and the weights of one checked."""
    honest()  # its own making does not count
    calls: Counter[str] = Counter()

    def count(module: object, name: str) -> None:
        real = getattr(module, name)

        def counted(*arguments: object) -> None:
            calls[name] += 1
            real(*arguments)

        monkeypatch.setattr(module, name, counted)

    count(archive, "extract")
    count(tensors, "check_tensors")
    return calls


@pytest.mark.parametrize("kept", [False, True])
def test_from_a_file_to_a_board(calls: "Counter[str]", tmp_path: Path, kept: bool) -> None:
    reports: list[object] = []
    work = tmp_path / "work" if kept else None
    assert submit(honest(), str(tmp_path / "boards"), n=20, work=work, report=reports.append) == "verified"
    assert calls == ONCE
    assert reports[-1] == Publication(place=str(tmp_path / "boards" / "digits" / "linf32of255"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boards", "work"][: 1 + kept]
    if kept:
        assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["bundle", "evaluated"]


def test_from_a_run_to_a_board(calls: "Counter[str]", tmp_path: Path) -> None:
    assert submit(make_run(tmp_path / "mine"), str(tmp_path / "boards"), n=20) == "verified"
    assert calls == {"check_tensors": 1}


@pytest.mark.parametrize(("target", "status"), [("https://example.org", "queued"), ("hf://me/mine", "uploaded")])
def test_on_the_way_to_elsewhere(
    calls: "Counter[str]", monkeypatch: pytest.MonkeyPatch, target: str, status: str
) -> None:
    hub = SimpleNamespace(create_repo=lambda *_, **__: None, upload_folder=lambda **_: None)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr(targets, "_request", lambda *_: {"id": "1", "status": "queued"})
    assert submit(honest(), target, token="good") == status
    assert calls == ONCE


def test_from_an_upload_to_a_board(calls: "Counter[str]", tmp_path: Path) -> None:
    service = ServiceSettings(data=tmp_path, n=20)
    service.make_folders()
    store = Store(service.store)
    upload = service.incoming / "one.zip"
    upload.write_bytes(honest().read_bytes())
    uploads.accept(uploads.check(upload, service), "one", owner="alice", settings=service, store=store)
    submission = store.take()
    assert submission is not None
    assert judge(submission, service, store) == ("verified", ())
    assert calls == ONCE


def test_what_ends_before_its_verification_leaves_nothing(tmp_path: Path) -> None:
    boards, work = str(tmp_path / "boards"), tmp_path / "work"
    submit(honest(), boards, n=20)
    bad = zipped({"model.pkl": b""}, tmp_path / "bad.zip")
    before = tree(tmp_path)
    with pytest.raises(BundleError, match=r"'model.pkl': not a file of a bundle"):
        submit(bad, boards, work=work)
    with pytest.raises(InvalidValueError, match="n is 0"):
        submit(honest(), boards, n=0, work=work)
    assert tree(tmp_path) == before


def test_an_accepted_bundle_that_is_gone_is_refused(tmp_path: Path) -> None:
    service = ServiceSettings(data=tmp_path, n=20)
    service.make_folders()
    store = Store(service.store)
    store.add("one", owner="alice", name="mine", weights_hash="sha256:" + "0" * 64)
    submission = store.take()
    assert submission is not None
    assert judge(submission, service, store) == ("refused", ("config.json: cannot be read: No such file or directory",))


def test_a_verdict_comes_before_its_publication(tmp_path: Path) -> None:
    boast = zipped(claiming(files_of(honest()), robust=scored("robust", 5)), tmp_path / "boast.zip")
    reports: list[object] = []
    assert submit(boast, str(tmp_path / "boards"), n=20, report=reports.append) == "not reproduced"
    assert [type(report).__name__ for report in reports] == ["Verification"]
    assert not (tmp_path / "boards").exists()
