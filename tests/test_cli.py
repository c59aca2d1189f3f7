"""The command line: fast help, one line for every mistake, and the whole job from training to the report."""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ensemble_bench import registry
from ensemble_bench.cli import run

COMMANDS = ("train", "evaluate", "report", "blackbox build", "list", "demo", "version")
HEAVY = ("torch", "pandas", "matplotlib", "pyarrow", "numpy", "sklearn", "torchattacks", "robustbench", "art")
TRAINED = "singleadv-digits-tiny-s0"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail as a user's mistake; returns its one line."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"ensemble-bench: [^\n]+\n", captured.err), captured.err
    return captured.err


def contents(root: Path) -> dict[str, str]:
    """Every file below `root` with a hash of its bytes."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def written(shown: str) -> set[str]:
    """Suffixes of the files of a report: as many as it says, in the folder that it names."""
    found = re.search(r"^(\d+) files in (.+); begin with report\.md$", shown, re.MULTILINE)
    assert found is not None
    paths = [path for path in Path(found[2]).iterdir() if path.is_file()]
    assert len(paths) == int(found[1])
    return {path.suffix for path in paths}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one short finished run."""
    root = tmp_path_factory.mktemp("cli") / "runs"
    assert run(["train", "singleadv", "--max-steps", "3", "--out", str(root / TRAINED)]) == 0
    return root


def test_help_of_every_command_imports_nothing_heavy() -> None:
    calls = [["--help"], [], ["blackbox"], *([*command.split(), "--help"] for command in COMMANDS), ["--version"]]
    code = f"""
import sys
from ensemble_bench.cli import run
for call in {calls!r}:
    assert run(call) == 0, call
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("HEAVY []\n")


def test_wrong_names_are_found_before_torch_is_imported() -> None:
    calls = [["train", "nope"], ["evaluate", "--suite", "nope"], ["blackbox", "build", "--preset", "nope"]]
    code = f"""
import sys
from ensemble_bench.cli import run
assert [run(call) for call in {calls!r}] == [2, 2, 2]
print("torch" in sys.modules)
"""
    assert python(code).stdout == "False\n"


def test_help_answers_in_well_under_a_second() -> None:
    """Processor time, as the wall clock of a busy machine says little."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "ensemble_bench", "train", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.8


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_defaults_and_what_the_command_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: ensemble-bench {command}" in shown
    if "--seed" in shown:
        assert "default: 0" in shown


def test_list_names_everything_in_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    shown = capsys.readouterr().out
    for kind, table in registry.KINDS.items():
        for name in table:
            label = f"{name}N" if kind == "attack" and name != "blackbox" else name
            assert re.search(rf"^  {re.escape(label)}  +\S", shown, re.MULTILINE), (kind, name)


def test_unknown_attack_offers_the_nearest() -> None:
    import ensemble_bench as eb
    from ensemble_bench.errors import UnknownNameError

    for wrong, near in (("pdg20", "pgd20"), ("ifgms7", "ifgsm20"), ("pgd", "pgd20")):
        with pytest.raises(UnknownNameError, match=rf"unknown attack '{wrong}'.*did you mean.*{near}"):
            eb.attacks.get(wrong)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--n": 361}, ["361", "360"]),
        ({"--eps": "0"}, ["eps is '0'"]),
        ({"--norm": "l1"}, ["'l1'", "linf"]),
        ({"--split": "tset"}, ["tset", "test"]),
        ({"--save-images": "adv.npz"}, ["'adv.npz'", "expected a .safetensors file"]),
        ({"--device": "gpu"}, ["device is 'gpu'"]),
        ({"--dataset": "cifar10", "--data-dir": "nowhere"}, ["nowhere"]),
    ],
    ids=str,
)
def test_evaluating_with_a_wrong_choice_changes_nothing(
    change: dict[str, object], expected: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(runs)
    options = [item for pair in change.items() for item in pair]
    line = fails(capsys, "evaluate", runs / TRAINED, "--runs", runs, "--suite", "quick", *options)
    assert all(text in line for text in expected), line
    assert contents(runs) == before


def test_broken_checkpoints_are_named_and_kept(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = runs / TRAINED / "last.safetensors"
    cut = tmp_path / "cut" / "best.safetensors"
    cut.parent.mkdir()
    cut.write_bytes(good.read_bytes()[:-100])
    cut.with_suffix(".json").write_bytes(good.with_suffix(".json").read_bytes())
    foreign = tmp_path / "foreign.pt"
    foreign.write_bytes(b"\x80\x02}q\x00.")
    disguised = tmp_path / "disguised.safetensors"
    disguised.write_bytes(foreign.read_bytes())
    disguised.with_suffix(".json").write_bytes(good.with_suffix(".json").read_bytes())
    empty = tmp_path / "empty"
    empty.mkdir()
    before = contents(tmp_path)
    for source in (cut, foreign, disguised, empty):
        assert str(source) in fails(capsys, "evaluate", source, "--suite", "quick", "--n", 4)
    assert "pickle" in fails(capsys, "evaluate", foreign)
    assert contents(tmp_path) == before


def write_class_folders(root: Path, splits: tuple[str, ...], size: int = 32, classes: int = 10) -> None:
    """CIFAR-10 as images in folders, two of every class."""
    rng = np.random.default_rng(0)
    for split in splits:
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(2):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")


def write_parquet(root: Path, label: int) -> None:
    """CIFAR-10 as the hub's parquet, with one odd label."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    sink = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(sink, "PNG")
    for split in ("train", "test"):
        rows = {"img": [{"bytes": sink.getvalue(), "path": None}] * 20, "label": [*range(10), *range(9), label]}
        pq.write_table(pa.table(rows), root / f"{split}-00000-of-00001.parquet")


def test_data_folders_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    write_class_folders(tmp_path / "half", ("train",))
    write_class_folders(tmp_path / "large", ("train", "test"), size=33)
    write_parquet(tmp_path / "labels", label=10)
    before = contents(tmp_path)
    out = tmp_path / "runs"
    for name, expected in (
        ("missing", "missing"),
        ("empty", "empty"),
        ("half", "test"),
        ("large", "33"),
        ("labels", "10"),
    ):
        line = fails(capsys, "train", "baseline", "--dataset", "cifar10", "--data-dir", tmp_path / name, "--out", out)
        assert expected in line
        assert name in line
    assert contents(tmp_path) == before


def test_another_run_in_the_folder_is_never_overwritten(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(runs)
    line = fails(capsys, "train", "singleadv", "--seed", "1", "--max-steps", "3", "--out", runs / TRAINED)
    assert "seed is 0 there, 1 here" in line
    assert contents(runs) == before


def test_evaluate_and_report_of_all_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--runs", str(runs), "--suite", "quick", "--n", "12"]) == 0
    shown = capsys.readouterr().out
    records = [json.loads(path.read_text()) for path in runs.rglob("record.json")]
    assert {record["model"] for record in records} == {f"{TRAINED}/averaged", f"{TRAINED}/last"}
    for record in records:
        assert record["model"] in shown
        assert f"{100 * record['robust']['robust'] / 12:.1f}" in shown
    before = contents(runs)
    assert run(["evaluate", "--runs", str(runs), "--suite", "quick", "--n", "12"]) == 0
    capsys.readouterr()
    assert contents(runs) == before
    assert run(["report", "--runs", str(runs)]) == 0
    assert written(capsys.readouterr().out) >= {".md", ".csv", ".tex"}


def test_evaluate_with_images_classes_and_no_black_box_attack(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, where = [str(runs / TRAINED / f"{name}.safetensors") for name in ("averaged", "last")], str(tmp_path)
    common = ["evaluate", *models, "--runs", where, "--suite", "blackbox+ifgsm5", "--no-blackbox", "--n", "12"]
    line = fails(capsys, *common, "--save-images", tmp_path / "adv")
    assert "put {model} where each one's name goes" in line
    assert run([*common, "--classes", "--save-images", str(tmp_path / "adv" / "{model}")]) == 0
    shown = capsys.readouterr().out
    for name in ("averaged", "last"):
        folder = tmp_path / "adv" / f"{TRAINED}-{name}"
        assert str(folder) in shown
        assert len(list(folder.glob("*.png"))) == 12
        assert f"Classes: {TRAINED}/{name} under ifgsm5" in shown
        assert f"Confusion, attacked: {TRAINED}/{name} under ifgsm5" in shown
        assert f"images of {TRAINED}/{name}: " in shown


@pytest.mark.parametrize(
    ("command", "way"),
    [("train baseline", "with --resume"), ("evaluate", "again"), ("evaluate --split train", "again")],
)
def test_an_interrupt_says_how_to_go_on(
    command: str, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ensemble_bench.evaluation import runner
    from ensemble_bench.training import trainer

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupted)
    monkeypatch.setattr(runner, "evaluate_request", interrupted)
    assert run(command.split()) == 130
    assert capsys.readouterr().err.splitlines() == [
        f"interrupted: what was written stays; run the same command {way} to go on"
    ]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_training_and_going_on(number: int, status: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ensemble_bench", "train", "baseline", "--max-steps", "60", "--out", str(out)]
    # Under a shell that runs its jobs in the background SIGINT is ignored, and children would inherit that.
    heard = partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 60
    while not (out / "run.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert run([*command[3:]]) == 2
    assert run([*command[3:], "--resume"]) == 0
    assert (out / "last.safetensors").is_file()


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble_bench.training import trainer

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(trainer, "train", broken)
    with pytest.raises(ZeroDivisionError):
        run(["train", "baseline"])


@pytest.mark.slow
def test_demo_writes_and_prints_everything_and_a_second_call_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert run(["demo", "--out", str(out), "--max-steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Table 1b" in shown
    for recipe in ("baseline", "singleadv", "doubleadv", "ensemble2adv", "separate2adv"):
        assert re.search(rf"^ *{recipe}, 2 steps +0", shown, re.MULTILINE), recipe
        assert len(list((out / f"{recipe}-digits-tiny-steps-2-s0").rglob("record.json"))) == 2
    assert written(shown) >= {".md", ".csv", ".tex", ".png"}
    assert str(out / "leaderboard.csv") in shown
    before = contents(out)
    assert run(["demo", "--out", str(out), "--max-steps", "2"]) == 0
    assert capsys.readouterr().out == shown
    assert contents(out) == before
