"""The precision that settings leave open: decided when a run begins, on whatever machine it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ensemble_bench as eb
from ensemble_bench.errors import InvalidValueError, UnknownNameError

OPEN: dict[str, Any] = {"settings": {"precision": "auto"}, "max_steps": 3, "device": "cpu"}


def has_bf16(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)


def precision_of(run: Path) -> str:
    found: str = json.loads((run / "run.json").read_text())["precision"]
    return found


def killed(label: str, done: int, total: int, **fields: object) -> None:
    if label.startswith("train") and done == 2:
        raise KeyboardInterrupt


def test_a_run_goes_on_elsewhere_in_the_precision_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_bf16(monkeypatch, True)
    whole = eb.train("baseline", out=tmp_path / "whole", **OPEN)
    with pytest.raises(KeyboardInterrupt):
        eb.train("baseline", out=tmp_path / "killed", progress=killed, **OPEN)
    has_bf16(monkeypatch, False)
    run = eb.train("baseline", out=tmp_path / "killed", resume=True, precision="float32", **OPEN)
    assert precision_of(run) == precision_of(whole) == "bf16"
    assert (run / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


def test_it_is_told_for_what_settings_leave_open_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_bf16(monkeypatch, True)
    run = eb.train("baseline", out=tmp_path / "told", precision="float32", **OPEN)
    assert precision_of(run) == "float32"
    # What was decided is no change of the preset: it is the run of a machine that has no bf16.
    has_bf16(monkeypatch, False)
    own = eb.train("baseline", out=tmp_path / "own", **OPEN)
    assert (run / "last.safetensors").read_bytes() == (own / "last.safetensors").read_bytes()
    closed = OPEN | {"settings": {"precision": "float32"}}
    assert precision_of(eb.train("baseline", out=tmp_path / "closed", precision="bf16", **closed)) == "float32"
    with pytest.raises(UnknownNameError, match="precision"):
        eb.train("baseline", out=tmp_path / "none", precision="fp16", **OPEN)


def test_networks_are_joined_in_the_precision_of_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_bf16(monkeypatch, True)
    eb.train("singleadv", seed=1, runs=tmp_path, **OPEN)
    has_bf16(monkeypatch, False)
    joined = eb.train("separate2adv", seed=0, runs=tmp_path, **OPEN)
    assert {precision_of(run) for run in tmp_path.iterdir() if run.is_dir()} == {"bf16"}
    for file in joined.iterdir():
        file.unlink()
    joined.rmdir()
    first = next(tmp_path.glob("singleadv*-s0"))
    for file in first.iterdir():
        file.unlink()
    eb.train("singleadv", seed=0, runs=tmp_path, **OPEN)
    with pytest.raises(InvalidValueError, match=r"was trained in bf16, and separate2adv.* joins networks trained in f"):
        eb.train("separate2adv", seed=0, runs=tmp_path, **OPEN)
