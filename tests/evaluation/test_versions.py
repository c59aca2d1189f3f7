"""What is gone on with under other versions, or on another kind of processor, says so: journal, record, training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed, killing
from small_models import ARCHITECTURE, trained

from ensemble_bench.evaluation import runner
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.request import Request
from ensemble_bench.evaluation.runner import evaluate_block, evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.records import training_of
from ensemble_bench.training import rundir
from ensemble_bench.training.provenance import versions
from ensemble_bench.training.trainer import train

OPTIONS: dict[str, Any] = {"suite": "ifgsm1+ifgsm5", "n": 12}


def a_run(folder: Path) -> Path:
    meta = {"recipe": "singleadv", "dataset": "digits", "threat": {"norm": "linf", "eps": 24 / 255}}
    checkpoint.save(folder / "best.safetensors", trained(), ARCHITECTURE, meta)
    return folder


def other(**changed: str) -> Any:
    return lambda: versions() | changed


def test_versions_name_the_kernels_of_the_processor() -> None:
    assert versions()["kernels"] == torch.backends.cpu.get_cpu_capability()
    assert {"torch", "ensemble_bench"} <= versions().keys()


def test_the_journal_and_the_record_hold_the_versions(tmp_path: Path) -> None:
    model = a_run(tmp_path / "run")
    with pytest.raises(Killed):
        evaluate_checkpoints([model], **OPTIONS, progress=killing(4))
    (journal,) = model.rglob("journal.jsonl")
    assert json.loads(journal.read_text().splitlines()[0])["versions"] == versions() | {"device": "cpu"}
    (record,) = evaluate_checkpoints([model], **OPTIONS)
    assert record.versions == versions()
    assert "mixed-versions" not in {warning.name for warning in record.warnings}


def test_an_evaluation_that_goes_on_under_others_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = a_run(tmp_path / "run"), list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "versions", other(kernels="AVX9", torch="1.0"))
        with pytest.raises(Killed):
            evaluate_checkpoints([model], **OPTIONS, progress=killing(4))
    (record,) = evaluate_checkpoints(
        [model], **OPTIONS, progress=lambda *_, **fields: told.append(str(fields.get("status", "")))
    )
    assert any("goes on with what was scored under torch 1.0, kernels AVX9" in line for line in told)
    (warning,) = [w for w in record.warnings if w.name == "mixed-versions"]
    assert warning.message == "scored in part under torch 1.0, kernels AVX9"


def test_blocks_of_other_processors_are_named_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "versions", other(kernels="AVX9"))
        evaluate_block(Request(models=(model,), **OPTIONS), 0)
    (record,) = evaluate_checkpoints([model], **OPTIONS)
    assert "scored in part under kernels AVX9" in {warning.message for warning in record.warnings}


def test_a_journal_from_before_versions_has_some_that_are_not_known(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, "id").put("pgd5", 0, {"broken": [True]})
    again = Journal(path, "id", versions={"torch": "2"})
    assert again.other_versions() == [None]
    again.put("pgd5", 1, {"broken": [True]})
    third = Journal(path, "id", versions={"torch": "3"})
    assert third.other_versions() == [None, {"torch": "2"}]
    assert third.get("pgd5", 1) is not None
    assert Journal(path, "id", versions={"torch": "3"}).other_versions() == [None, {"torch": "2"}]


def test_a_training_that_goes_on_under_others_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, told = tmp_path / "run", list[str]()
    options: dict[str, Any] = {"out": out, "max_steps": 3, "settings": {"checkpoint_every": 1, "average": 0}}
    with monkeypatch.context() as patch:
        patch.setattr(rundir, "versions", other(kernels="AVX9"))
        patch.setattr(rundir, "commit", lambda: "an earlier one")
        with pytest.raises(Killed):
            train("baseline", **options, progress=killing(2))
    train("baseline", **options, resume=True, progress=lambda *_, **f: told.append(str(f.get("status", ""))))
    assert any("goes on with what was trained under kernels AVX9" in line for line in told)
    assert any("trained at two commits" in line for line in told)
    run = rundir.read_run(out) or {}
    assert run["versions"]["kernels"] == "AVX9"
    assert run["later_versions"] == [versions()]
    meta = checkpoint.read_info(out / "last.safetensors").meta
    assert meta["crossed_commits"] is True
    assert meta["crossed_versions"] is True
    assert (training_of(meta) or {})["crossed_versions"] is True


def test_a_training_under_one_says_nothing(tmp_path: Path) -> None:
    out = train("baseline", out=tmp_path / "run", max_steps=1)
    assert "crossed_versions" not in checkpoint.read_info(out / "last.safetensors").meta
    assert "later_versions" not in (rundir.read_run(out) or {})
