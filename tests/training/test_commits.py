"""A run that goes on at another commit than it began at says so, and its records do."""

from pathlib import Path

import pytest
from small_models import ARCHITECTURE

from ensemble_bench.models import checkpoint
from ensemble_bench.records import training_of
from ensemble_bench.training import rundir

PLAN = {"recipe": "singleadv", "seeds": [0], "steps": 10, "settings": {}}


def test_going_on_at_another_commit_is_written_down_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    for commit, resume, crossed in (("a", False, False), ("a", True, False), ("b", True, True), ("a", True, True)):
        monkeypatch.setattr(rundir, "commit", lambda commit=commit: commit)
        rundir.claim(out, PLAN, device="cpu", resume=resume)
        assert rundir.crossed_commits(out) == crossed
    told = (rundir.read_run(out) or {}) | {"crossed_commits": True}
    assert (training_of(told) or {})["crossed_commits"] is True


def test_a_finished_run_is_not_continued_by_being_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(rundir, "commit", lambda: "a")
    rundir.claim(out, PLAN, device="cpu", resume=False)
    checkpoint.describe(out / "last.safetensors", ARCHITECTURE, {})
    before = (out / rundir.RUN).read_bytes()
    monkeypatch.setattr(rundir, "commit", lambda: "b")
    rundir.claim(out, PLAN, device="cpu", resume=True)
    assert (out / rundir.RUN).read_bytes() == before
