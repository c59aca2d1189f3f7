"""One process at work in a folder: another waits or is refused, and no lock outlives its process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_models import ARCHITECTURE, blackbox_set, trained

from ensemble_bench import locks
from ensemble_bench.cli import run
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation.request import Request
from ensemble_bench.evaluation.runner import evaluate_block, evaluate_checkpoints
from ensemble_bench.locks import held
from ensemble_bench.models import checkpoint

HOLD = """
import sys, time
from pathlib import Path
from ensemble_bench.locks import held
with held(Path(sys.argv[1]), "test", name=sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(folder: Path, name: str = locks.LOCK) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock of `folder`."""
    command = [sys.executable, "-c", HOLD, str(folder), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT", 0.0)


def a_run(folder: Path) -> Path:
    meta = {"recipe": "singleadv", "dataset": "digits", "threat": {"norm": "linf", "eps": 24 / 255}}
    checkpoint.save(folder / "best.safetensors", trained(), ARCHITECTURE, meta)
    return folder


def test_of_two_one_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        with (
            pytest.raises(InvalidValueError, match="another test is at work there: wait for it"),
            held(tmp_path, "test"),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(tmp_path, "test"):
            assert (tmp_path / locks.LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_those_who_share_keep_out_who_wants_it_alone(tmp_path: Path) -> None:
    with (
        held(tmp_path, "test", shared=True),
        held(tmp_path, "test", shared=True),
        pytest.raises(InvalidValueError),
        held(tmp_path, "test"),
    ):
        pass
    with held(tmp_path, "test"), pytest.raises(InvalidValueError), held(tmp_path, "test", shared=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_never_two_at_once_though_each_removes_the_file(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with held(tmp_path, "test", wait=30):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_not_locked(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with held(tmp_path, "test") as descriptor:
        assert descriptor is None


def test_a_file_system_that_is_read_only_or_without_locks_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path))

    for module, name in ((os, "open"), (locks.fcntl, "flock")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refusing)
            with held(tmp_path, "test") as descriptor:
                assert descriptor is None


# What is locked


def test_two_trainings_of_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with another_process(out):
        assert run(["train", "baseline", "--out", str(out), "--max-steps", "1"]) == 2
        said = capsys.readouterr().err
        assert (
            said == f"ensemble-bench: {out}: another training is at work there: wait for it, or choose another --out\n"
        )
        assert {path.name for path in out.iterdir()} == {locks.LOCK}


def test_two_evaluations_of_one_model_and_suite(tmp_path: Path) -> None:
    model = a_run(tmp_path / "run")
    (record,) = evaluate_checkpoints([model], suite="ifgsm1", n=8)
    assert record.path is not None
    folder, (other,) = record.path.parent, evaluate_checkpoints([model], suite="ifgsm2", n=8)
    assert sorted(path.name for path in folder.iterdir()) == ["record.json", "samples.parquet"]
    with another_process(folder):
        # What is finished is read without a lock, and another suite has its own.
        assert evaluate_checkpoints([model], suite="ifgsm1", n=8) == [record]
        assert evaluate_checkpoints([model], suite="ifgsm2", n=8) == [other]
        record.path.unlink()
        for again in (
            lambda: evaluate_checkpoints([model], suite="ifgsm1", n=8),
            lambda: evaluate_block(Request(models=(model,), suite="ifgsm1", n=8), 0),
        ):
            with pytest.raises(InvalidValueError, match="another evaluation of this model with this suite is at work"):
                again()
        assert not list(folder.glob("journal*"))
    assert [again.robust for again in evaluate_checkpoints([model], suite="ifgsm1", n=8)] == [record.robust]


def test_blocks_keep_out_the_whole_evaluation_but_not_each_other(tmp_path: Path) -> None:
    model = a_run(tmp_path / "run")
    (record,) = evaluate_checkpoints([model], suite="ifgsm1", n=8)
    assert record.path is not None
    folder = record.path.parent
    record.path.unlink()
    with held(folder, "block 1", shared=True):
        evaluate_block(Request(models=(model,), suite="ifgsm1", n=8), 0)
        with pytest.raises(InvalidValueError, match="at work there"):
            evaluate_checkpoints([model], suite="ifgsm1", n=8)
    refused = pytest.raises(InvalidValueError, match="another evaluation of block 0 is at work there")
    with another_process(folder, f"{locks.LOCK}-0"), refused:
        evaluate_block(Request(models=(model,), suite="ifgsm1", n=8), 0)


def test_a_black_box_set_that_another_builds_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble_bench.evaluation import blackbox

    path = tmp_path / "sets" / "set.safetensors"
    told: list[str] = []

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        told.append(str(fields.get("status", "")))
        if "waiting" in told[-1]:  # meanwhile it is finished
            blackbox_info = blackbox_set().with_suffix(".json")
            path.with_suffix(".json").write_bytes(blackbox_info.read_bytes())
            path.write_bytes(blackbox_set().read_bytes())
            process.kill()

    monkeypatch.setattr(blackbox, "_build", lambda *_: pytest.fail("it was built twice"))
    with another_process(path.parent, f".set{locks.LOCK}") as process:
        assert blackbox.build("digits", out=path, n=60, progress=progress) == path
    assert any("another process builds it: waiting" in line for line in told)
    assert told[-1] == "built meanwhile"
