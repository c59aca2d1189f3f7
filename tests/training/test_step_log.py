"""What a training tells other programs of its steps: each once, whatever interrupted it."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ensemble_bench.cli import run as command
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.records import curves
from ensemble_bench.training import presets
from ensemble_bench.training.step_log import STEPS, TENSORBOARD
from ensemble_bench.training.trainer import train

STEPS_IN_ALL, EVERY, CHECKPOINT = 8, 4, 3


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    tiny = presets.PRESETS["tiny"]
    quick = replace(
        tiny.on("digits"), steps=STEPS_IN_ALL, evaluate_every=EVERY, evaluate_n=20, checkpoint_every=CHECKPOINT,
        batch_size=32, average=0.0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "tiny", replace(tiny, settings={"digits": quick}))
        yield


@pytest.fixture(scope="module")
def whole(_quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("baseline", out=tmp_path_factory.mktemp("whole") / "run", log_steps=True)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / STEPS).read_text().splitlines()]


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(run)]


def stop_at(step: int, error: type[BaseException]) -> Callable[..., None]:
    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        if done == step:
            raise error

    return progress


def test_a_line_a_step_and_one_a_validation(whole: Path) -> None:
    run = whole
    steps = [line for line in lines(run) if "loss" in line]
    validations = [line for line in lines(run) if "loss" not in line]
    rows = curves.read(run / "curves.csv")
    assert [line["step"] for line in steps] == list(range(1, STEPS_IN_ALL + 1))
    assert [line["step"] for line in lines(run)] == sorted(line["step"] for line in lines(run))
    assert [line["step"] for line in validations] == [row["step"] for row in rows] == [4, 8]
    for line, row in zip(validations, rows, strict=True):
        assert {name: row[name] for name in line} == line
        losses = [step["loss"] for step in steps if row["step"] - EVERY < step["step"] <= row["step"]]
        assert sum(losses) / EVERY == pytest.approx(row["loss"], rel=1e-6)
        assert steps[int(row["step"]) - 1]["lr"] == row["lr"]


@pytest.mark.parametrize(
    ("step", "error"), [(5, KeyboardInterrupt), (5, ZeroDivisionError), (4, KeyboardInterrupt), (0, ZeroDivisionError)]
)
def test_going_on_doubles_no_line_and_loses_none(
    whole: Path, tmp_path: Path, step: int, error: type[BaseException]
) -> None:
    run = tmp_path / "run"
    # Ctrl-C saves the step reached; after any other end the run goes back to the resume point before.
    with pytest.raises(error):
        train("baseline", out=run, log_steps=True, progress=stop_at(step, error))
    with open(run / STEPS, "a") as file:
        file.write('{"step": 9')  # what a kill leaves half written
    train("baseline", out=run, log_steps=True, resume=True)
    assert without_seconds(run) == without_seconds(whole)


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path) -> None:
    run = train("baseline", out=tmp_path / "run")
    assert not (run / STEPS).exists()
    assert not (run / TENSORBOARD).exists()


def test_joined_runs_write_their_own(tmp_path: Path) -> None:
    train("separate2adv", out=tmp_path / "joined", log_steps=True, max_steps=2)
    assert len(list(tmp_path.glob(f"singleadv-*/{STEPS}"))) == 2


def test_without_tensorboard_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InvalidValueError, match=r"pip install 'ensemble-bench\[tensorboard\]'"):
        train("baseline", out=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    assert command(["train", "baseline", "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_events_are_those_of_the_lines(tmp_path: Path) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed: pip install -e '.[tensorboard]'",
    )
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train("baseline", out=run, tensorboard=True, log_steps=True, progress=stop_at(5, ZeroDivisionError))
    train("baseline", out=run, tensorboard=True, log_steps=True, resume=True)
    events = reading.EventAccumulator(str(run / TENSORBOARD)).Reload()
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert shown == pytest.approx({line["step"]: line["loss"] for line in lines(run) if "loss" in line}, rel=1e-6)
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, STEPS_IN_ALL + 1))
    assert [event.step for event in events.Scalars("validation/clean")] == [4, 8]
