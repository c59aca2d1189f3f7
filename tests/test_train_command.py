"""`train` with several recipes, seeds and settings, and what is left of trainings and evaluations that are stopped."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from ensemble_bench.cli import bars, run
from ensemble_bench.cli.options import parse_count, parse_seeds
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.training import trainer


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", [0, 1, 2]), ("0,3,5", [0, 3, 5]), ("7", [7]), ("4-4, 0-1,1", [4, 0, 1])]
)
def test_seeds_are_ranges_and_numbers(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "-1", "2-0", "1-", "a", "0,,1", "0-1-2", "1.5"])
def test_seeds_that_are_none_are_named(text: str) -> None:
    with pytest.raises(InvalidValueError, match=f"seeds are {text!r}"):
        parse_seeds(text)


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("0-2", 3), ("0", None), ("1-2", None), ("0,5,2", None)])
def test_seeds_from_0_on_are_counted(text: str, count: int | None) -> None:
    if count is not None:
        assert parse_count(text) == count
        return
    with pytest.raises(InvalidValueError, match=f"seeds is {text!r}: expected how many"):
        parse_count(text)


def train(runs: Path, *arguments: str) -> int:
    """Run `train` below `runs`, two steps each."""
    return run(["train", *arguments, "--runs", str(runs), "--max-steps", "2"])


def finished(runs: Path) -> set[str]:
    """Names of the finished runs."""
    return {path.parent.name for path in runs.glob("*/last.json")}


def test_several_recipes_and_seeds_share_their_single_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "singleadv", "separate2adv", "singleadv", "--seeds", "0-1", "--set", "evaluate_n=8") == 0
    shown = capsys.readouterr()
    whole = {
        f"{recipe}-digits-tiny-evaluate_n-8-steps-2-s{s}" for recipe in ("singleadv", "separate2adv") for s in "01"
    }
    assert whole <= finished(tmp_path)
    assert shown.err.count("train singleadv-digits-tiny-evaluate_n-8-steps-2-s1: started") == 1
    *paths, hint = shown.out.splitlines()
    assert {Path(path).name for path in paths} == whole
    assert hint == f"score them with: ensemble-bench evaluate {' '.join(paths)}"
    info = json.loads((tmp_path / "singleadv-digits-tiny-evaluate_n-8-steps-2-s1" / "last.json").read_text())
    assert info["meta"]["changes"] == {"evaluate_n": 8, "steps": 2}


def test_one_that_fails_is_reported_at_the_end_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = trainer.train

    def train_one(recipe: str, **choices: object) -> Path:
        if recipe == "ensemble2":
            raise AttackError("diverged")
        if recipe == "doubleadv":
            raise ZeroDivisionError("a bug")
        return honest(recipe, **choices)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "train", train_one)
    assert train(tmp_path, "ensemble2", "doubleadv", "baseline") == 1
    shown = capsys.readouterr()
    assert finished(tmp_path) == {"baseline-digits-tiny-steps-2-s0"}
    assert shown.out.splitlines()[0] == str(tmp_path / "baseline-digits-tiny-steps-2-s0")
    assert "Traceback" in shown.err
    assert shown.err.splitlines()[-3:] == [
        "2 of 3 trainings failed:",
        "  ensemble2, seed 0: diverged",
        "  doubleadv, seed 0: ZeroDivisionError: a bug",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["baseline", "--seed", "0", "--seeds", "0-1"], ["--seed 0", "--seeds 0-1", "choose one"]),
        (["baseline", "--seeds", "two"], ["seeds are 'two'", "0-2"]),
        (["baseline", "singleadv", "--out", "here"], ["--out is 'here'", "2 are asked for", "--runs"]),
        (["baseline", "--seeds", "0-2", "--out", "here"], ["--out is 'here'", "3 are asked for", "--runs"]),
        (["baseline", "nope"], ["unknown recipe 'nope'"]),
        (["baseline", "--set", "learning_rate"], ["--set is 'learning_rate'", "NAME=VALUE"]),
        (["baseline", "--set", "crop=1", "--set", "crop=2"], ["crop is given twice"]),
        (["baseline", "--set", "learning_rte=1"], ["unknown setting 'learning_rte'", "did you mean learning_rate"]),
        (["baseline", "--set", "batch_size=many"], ["batch_size is 'many'", "a whole number"]),
        (["baseline", "--threads", "0"], ["--threads", "1"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_trains_nothing(
    arguments: list[str],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(text in line for text in expected), line
    assert list(tmp_path.iterdir()) == []


def test_a_seed_alone_and_one_of_seeds_are_the_same(tmp_path: Path) -> None:
    assert train(tmp_path, "baseline", "--seeds", "3") == 0
    assert train(tmp_path, "baseline", "--seed", "3") == 0
    assert finished(tmp_path) == {"baseline-digits-tiny-steps-2-s3"}


def test_threads_are_those_asked_for(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    assert train(tmp_path, "baseline", "--threads", str(before + 1)) == 0
    assert json.loads((tmp_path / "baseline-digits-tiny-steps-2-s0" / "run.json").read_text())["threads"] == before + 1
    assert torch.get_num_threads() == before


def killing(at: int) -> Callable[..., None]:
    """A progress that sends this process SIGTERM at its call number `at`."""
    calls = 0

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
def test_sigterm_in_an_evaluation_keeps_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "baseline", "--set", "average=0") == 0
    command = ["evaluate", "--runs", str(tmp_path), "--suite", "quick", "--n", "30"]
    with monkeypatch.context() as patch:
        patch.setattr(bars, "shown_progress", lambda: nullcontext(killing(6)))
        assert run(command) == 143
    assert "run the same command again" in capsys.readouterr().err
    (journal,) = tmp_path.rglob("journal.jsonl")
    header, *kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert header["threads"] == torch.get_num_threads()
    assert kept[0]["attack"] == "clean"
    assert run(command) == 0
    shown = capsys.readouterr().err
    assert not journal.exists()
    # What was done before the signal is not done again.
    assert all(f"best {entry['attack']}:" not in shown for entry in kept)
    assert "best " in shown
    assert len(list(tmp_path.rglob("record.json"))) == 1


def test_equal_checkpoints_are_scored_once_unless_both_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of two steps the last is the best.
    assert train(tmp_path, "baseline", "--set", "average=0") == 0
    (folder,) = tmp_path.iterdir()
    suite = ["--runs", str(tmp_path), "--suite", "ifgsm1", "--n", "10"]
    capsys.readouterr()
    assert run(["evaluate", *suite]) == 0
    assert f"{folder.name}/last: has the weights of best, scored as that" in capsys.readouterr().err
    assert [json.loads(p.read_text())["checkpoint"] for p in tmp_path.rglob("record.json")] == ["best"]
    assert run(["evaluate", *suite, *(str(folder / f"{name}.safetensors") for name in ("best", "last"))]) == 0
    assert {json.loads(p.read_text())["checkpoint"] for p in tmp_path.rglob("record.json")} == {"best", "last"}
