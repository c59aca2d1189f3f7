"""A full disk, and files that are broken by other means: one line that names the file, and nothing half-written."""

import json
import re
from pathlib import Path

import pytest
from full_disk import no_file_above
from small_models import ARCHITECTURE, trained

from ensemble_bench.cli import run
from ensemble_bench.models import checkpoint
from ensemble_bench.records import read_record

DEEP = "[" * 100_000


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with one line; returns that."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not re.match(r"\S+ .*\b\d+%", line)]
    assert "Traceback" not in "".join(lines)
    assert lines[-1].startswith("ensemble-bench: ")
    return lines[-1]


def a_run(folder: Path) -> Path:
    meta = {"recipe": "singleadv", "preset": "tiny", "dataset": "digits", "threat": {"norm": "linf", "eps": 24 / 255}}
    checkpoint.save(folder / "best.safetensors", trained(), ARCHITECTURE, meta)
    (folder / "run.json").write_text("{}")
    return folder


def hidden(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".*")]


@pytest.mark.parametrize(("size", "file"), [(10, "run.json"), (100, "run.json"), (4_000, "resume.safetensors")])
def test_a_training_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, file: str) -> None:
    out = tmp_path / "run"
    command = ("train", "baseline", "--out", out, "--max-steps", 2, "--resume")
    with no_file_above(size):
        assert fails(capsys, *command) == f"ensemble-bench: {out / file}: File too large"
    assert hidden(tmp_path) == []
    assert run([str(word) for word in command]) == 0
    assert hidden(tmp_path) == []
    checkpoint.load(out)


@pytest.mark.parametrize(("size", "file"), [(50, "journal.jsonl"), (700, "journal.jsonl"), (2_500, "samples.parquet")])
def test_an_evaluation_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, file: str) -> None:
    model = a_run(tmp_path / "runs" / "run")
    command = ("evaluate", model, "--suite", "ifgsm1+ifgsm5", "--n", 8, "--runs", tmp_path / "runs")
    with no_file_above(size):
        said = fails(capsys, *command)
    assert re.fullmatch(rf"ensemble-bench: {tmp_path}/\S+/{file}: File too large", said)
    assert not list(tmp_path.rglob("record.json"))
    assert hidden(tmp_path) == []
    assert run([str(word) for word in command]) == 0
    (path,) = tmp_path.rglob("record.json")
    assert read_record(path).n == 8
    assert sorted(file.name for file in path.parent.iterdir()) == ["record.json", "samples.parquet"]


def test_a_bundle_and_a_site_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    model = a_run(runs / "run")
    assert run(["evaluate", str(model), "--suite", "ifgsm1", "--n", "8", "--runs", str(runs)]) == 0
    for target, command in (
        (tmp_path / "b.zip", ("bundle", model, "--out", tmp_path / "b.zip")),
        (tmp_path / "b", ("bundle", model, "--out", tmp_path / "b")),
        (tmp_path / "site", ("leaderboard", "build", "--root", runs, "--out", tmp_path / "site")),
        (tmp_path / "report", ("report", "--runs", runs, "--out", tmp_path / "report")),
    ):
        with no_file_above(1_000):
            said = fails(capsys, *command)
        assert re.fullmatch(rf"ensemble-bench: {tmp_path}/\.?{target.name}\S*: File too large", said)
        assert not target.exists() or target.name == "report"
        assert hidden(tmp_path) == []


def test_a_full_disk_behind_a_stream_is_said_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.echo", full)
        assert fails(capsys, "version").endswith(": No space left on device")


@pytest.mark.parametrize(
    "content", [DEEP, '{"a":' * 100_000, "\x00\xff", ""], ids=["list", "object", "binary", "empty"]
)
def test_files_that_hold_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    runs = tmp_path / "runs"
    model, evaluation = a_run(runs / "run"), runs / "run" / "evaluations" / "quick"
    evaluation.mkdir(parents=True)
    (evaluation / "record.json").write_text(content, encoding="latin-1")
    assert str(evaluation / "record.json") in fails(capsys, "report", "--runs", runs, "--out", tmp_path / "report")
    assert str(evaluation / "record.json") in fails(capsys, "compare", evaluation / "record.json", runs)
    (evaluation / "record.json").unlink()
    (model / "curves.csv").write_text(content, encoding="latin-1")
    if content:
        assert str(model / "curves.csv") in fails(capsys, "report", "--runs", runs, "--out", tmp_path / "report")
    (model / "curves.csv").unlink()
    (model / "best.json").write_text(content, encoding="latin-1")
    assert str(model / "best.json") in fails(capsys, "evaluate", model, "--runs", runs)
    (model / "run.json").write_text(content, encoding="latin-1")
    assert str(model / "run.json") in fails(capsys, "train", "baseline", "--out", model)
    sets = tmp_path / "set.safetensors"
    sets.write_text(content, encoding="latin-1")
    sets.with_suffix(".json").write_text(content, encoding="latin-1")
    a_run(model)
    assert "set.json" in fails(capsys, "evaluate", model, "--suite", "blackbox", "--blackbox", sets, "--runs", runs)


def test_a_board_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ensemble_bench.errors import RecordError
    from ensemble_bench.leaderboard.rules import read_rules
    from ensemble_bench.leaderboard.verified import read_verified

    for read in (read_rules, read_verified):
        (tmp_path / "file.json").write_text(DEEP)
        with pytest.raises(RecordError, match=r"file\.json: .*nested too deep"):
            read(tmp_path / "file.json")


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 8000])
def test_a_broken_memory_of_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "service.sqlite").write_bytes(content)
    said = fails(capsys, "serve", "token", "list", "--data", tmp_path)
    assert str(tmp_path / "service.sqlite") in said
    assert json.dumps(said).count("\\n") == 0
