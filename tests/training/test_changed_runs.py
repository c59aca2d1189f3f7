"""Runs that change what their preset says: what they write down, where they lie, and that they go on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import checkpoint
from ensemble_bench.training.trainer import train


def _stop_at_2(label: str, done: int, total: int, **fields: float | str) -> None:
    if done == 2:
        raise KeyboardInterrupt


def test_a_run_that_goes_on_keeps_its_threads_unless_told_otherwise(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []

    def stop(label: str, done: int, total: int, **fields: float | str) -> None:
        seen.append(torch.get_num_threads())
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("baseline", out=tmp_path / "run", threads=before + 1, max_steps=2, progress=stop)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["threads"] == before + 1
    for threads in (None, before):
        with pytest.raises(KeyboardInterrupt):
            train("baseline", out=tmp_path / "run", resume=True, max_steps=2, threads=threads, progress=stop)
    assert seen == [before + 1, before + 1, before + 1, before]
    assert torch.get_num_threads() == before
    with pytest.raises(InvalidValueError, match="threads is 0"):
        train("baseline", out=tmp_path / "run", resume=True, max_steps=2, threads=0)


def test_runs_from_before_changes_were_listed_go_on(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"max_steps": 4, "objective": "member-mean", "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        train("ensemble2adv", **choices, progress=_stop_at_2)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["changes"] == {"steps": 4, "objective": "member-mean"}
    for key in ("changes", "threads", "self_hash"):
        del run[key]
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    done = train("ensemble2adv", **choices, resume=True)
    assert checkpoint.read_info(done / "last.safetensors").meta["changes"] == {"steps": 4, "objective": "member-mean"}
    assert train("ensemble2adv", **choices) == done


def test_two_objectives_have_two_default_folders(tmp_path: Path) -> None:
    runs = [
        train("ensemble2adv", runs=tmp_path, max_steps=3, objective=objective, settings=settings)
        for objective, settings in ((None, {"evaluate_n": 4}), ("adp", {"evaluate_n": "4"}))
    ]
    assert [run.name for run in runs] == [
        "ensemble2adv-digits-tiny-evaluate_n-4-steps-3-s0",
        "ensemble2adv-digits-tiny-objective-adp-evaluate_n-4-steps-3-s0",
    ]
    assert checkpoint.read_info(runs[1]).meta["changes"] == {"evaluate_n": 4, "steps": 3, "objective": "adp"}


def test_separate_networks_are_joined_of_runs_with_the_same_changes(tmp_path: Path) -> None:
    joined = train("separate2adv", runs=tmp_path, max_steps=2, settings={"learning_rate": 0.1})
    assert joined.name == "separate2adv-digits-tiny-learning_rate-0.1-steps-2-s0"
    assert (tmp_path / "singleadv-digits-tiny-learning_rate-0.1-steps-2-s0" / "last.json").exists()
    assert json.loads((joined / "run.json").read_text())["changes"] == {"learning_rate": 0.1, "steps": 2}
