"""The commands bundle, verify and submit: what they print, write and exit with."""

import json
from pathlib import Path

import pytest
import typer
from sample_bundles import SUITE, claiming, files_of, honest, make_run, scored, tree, zipped
from typer.testing import CliRunner, Result

from ensemble_bench.cli.submissions import bundle, submit, verify
from ensemble_bench.errors import BundleError
from ensemble_bench.submissions import targets

app = typer.Typer(pretty_exceptions_enable=False)
for command in (bundle, verify, submit):
    app.command()(command)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_bundle_verify_and_submit_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "mine")
    made = run("bundle", "runs/mine")
    assert (made.exit_code, made.stdout) == (0, "mine.zip\n")
    shown = run("verify", "mine.zip")
    assert shown.exit_code == 0
    assert "mine: verified" in shown.stdout
    assert SUITE in shown.stdout
    before = tree(tmp_path)
    published = run("submit", "runs/mine", "--to", "boards")
    assert (published.exit_code, published.stdout.splitlines()[-1]) == (0, "boards/digits/linf32of255")
    # Nothing is left anywhere else.
    added = set(tree(tmp_path)) - set(before)
    assert all(path.startswith("boards") for path in added)
    with pytest.raises(BundleError, match="exists already"):
        run("bundle", "runs/mine")


def test_exit_statuses_tell_the_verdict(tmp_path: Path) -> None:
    files = files_of(honest())
    boast = zipped(claiming(files, robust=scored("robust", 58)), tmp_path / "boast.zip")
    measured = json.loads(files["claims.json"])["claims"][0]["robust"]["robust"]
    for arguments in (("verify", boast), ("submit", boast, "--to", tmp_path / "boards")):
        shown = run(*arguments)
        assert shown.exit_code == 1
        assert "mine: not reproduced\n  " in shown.stdout
        found = f"robust accuracy is {measured / 60:.4f} ({measured} of 60 images)"
        assert f"at most 1 may; {found}, claimed was 0.9667 on 60" in shown.stdout
    bad = zipped({"model.pkl": b""}, tmp_path / "bad.zip")
    shown = run("verify", bad, "--work", tmp_path / "work")
    assert shown.exit_code == 2
    assert "refused\n  'model.pkl': not a file of a bundle" in shown.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "boast.zip"]


def test_a_name_that_is_taken_is_said_before_anything_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("submit", honest(), "--to", tmp_path).exit_code == 0
    from small_models import trained

    other = make_run(tmp_path / "runs" / "mine", trained(seed=1))
    monkeypatch.setattr("ensemble_bench.submissions.verification.verify", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(BundleError, match="is that of another model"):
        run("submit", other, "--to", tmp_path)


def test_submitting_to_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    queued = targets.Receipt(id="17", status="queued")
    done = targets.Receipt(id="17", status="not reproduced", reasons=("why\x1b[2J",))
    monkeypatch.setattr(targets, "upload", lambda *_, **__: queued)
    monkeypatch.setattr(targets, "status", lambda *_, **__: done)
    monkeypatch.setattr(targets.time, "sleep", lambda _: None)
    shown = run("submit", honest(), "--to", "https://example.org")
    assert (shown.exit_code, shown.stdout) == (0, "submission 17: queued\n")
    shown = run("submit", honest(), "--to", "https://example.org", "--wait")
    assert (shown.exit_code, shown.stdout) == (
        1,
        "submission 17: queued\nsubmission 17: not reproduced\n  why?[2J\n",
    )


def test_submitting_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "push", lambda _, target: f"pushed to {target}")
    assert run("submit", honest(), "--to", "hf://me/mine").stdout == "pushed to hf://me/mine\n"
