"""Every checkpoint of a run folder is evaluated once, and a damaged one is named."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from evaluated_runs import make_run
from small_models import ARCHITECTURE, blackbox_set, trained

import ensemble_bench as eb
from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.evaluation.runner import evaluate, evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.records import find_records, read_record, read_samples


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "singleadv-s0")


def test_every_best_and_last_checkpoint_is_scored(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "a-s0")
    make_run(runs / "b-s1", seed=1, names=("last",))
    # A black-box set with its surrogates, and a checkpoint of no run.
    default = runs / "blackbox" / "digits-tiny-linf32of255-s0"
    default.parent.mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copy(blackbox_set().with_suffix(suffix), f"{default}{suffix}")
        shutil.copytree(
            blackbox_set().with_name(f"{blackbox_set().stem}-surrogates"), f"{default}-surrogates", dirs_exist_ok=True
        )
    checkpoint.save(runs / "loose" / "best.safetensors", trained(), ARCHITECTURE, {})
    records = evaluate_checkpoints(runs=runs, n=20)
    assert [r.model for r in records] == ["a-s0/best", "a-s0/last", "b-s1/last"]
    assert find_records(runs) == sorted(records, key=lambda r: str(r.path))
    for record in records:
        assert record.path is not None
        assert record.path.parent.parent == runs / record.run / "evaluations"
        assert (record.recipe, record.preset, record.checkpoint) == ("singleadv", "tiny", record.model[5:])
        assert record.weights_hash == checkpoint.read_info(runs / f"{record.model}.safetensors").weights_hash
        assert record.threat.eps == 32 / 255
    assert len({r.id for r in records}) == 3


def test_an_existing_record_is_not_made_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = evaluate_checkpoints([run], n=20, suite="quick")
    assert first.path is not None
    written = first.path.stat().st_mtime_ns

    def never(*args: object) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(checkpoint, "load", never)
    (again,) = evaluate_checkpoints([run], n=20, suite="quick")
    assert again == first
    assert first.path.stat().st_mtime_ns == written
    with pytest.raises(AssertionError, match="weights were loaded"):
        evaluate_checkpoints([run], n=21, suite="quick")


def test_a_checkpoint_and_the_loaded_model_get_the_same_scores(run: Path) -> None:
    (record,) = evaluate_checkpoints([run / "last.safetensors"], n=20, suite="quick")
    found = evaluate(eb.load(run / "last.safetensors"), n=20, suite="quick")
    assert record.path is not None
    pd.testing.assert_frame_equal(read_samples(record.path.parent), found.samples, check_dtype=False)
    assert found.record.recipe == "singleadv"
    assert found.record.model == record.model


def test_threat_defaults_to_that_of_the_training_and_can_be_another(run: Path) -> None:
    (strong,) = evaluate_checkpoints([run], n=20, suite="quick")
    (weak,) = evaluate_checkpoints([run], n=20, suite="quick", eps=1 / 255)
    assert (strong.threat.eps, weak.threat.eps) == (32 / 255, 1 / 255)
    assert weak.robust.accuracy >= strong.robust.accuracy
    (l2,) = evaluate_checkpoints([run], n=20, suite="quick", norm="l2", eps=0.5)
    assert (l2.threat.norm, l2.threat.eps) == ("l2", 0.5)
    with pytest.raises(InvalidValueError, match="trained for linf, so give eps"):
        evaluate_checkpoints([run], n=20, suite="quick", norm="l2")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "is not the file that its .json describes|truncated"),
        ("garbage", "truncated or not a safetensors checkpoint|is not the file"),
        ("no json", "best.json is missing"),
        ("pickle", "pickles are never loaded"),
        ("missing", "does not exist"),
        ("empty", "no checkpoint here"),
        ("no dataset", "does not say what it was trained on: pass --dataset"),
    ],
)
def test_checkpoints_that_cannot_be_scored(run: Path, tmp_path: Path, damage: str, message: str) -> None:
    path = run / "best.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif damage == "no json":
        path.with_suffix(".json").unlink()
    elif damage == "pickle":
        path = run / "model.pt"
        torch.save({}, path)
    elif damage == "missing":
        path = tmp_path / "nowhere"
    elif damage == "empty":
        path = tmp_path
    elif damage == "no dataset":
        checkpoint.save(path, trained(), ARCHITECTURE, {})
    with pytest.raises(CheckpointError, match=message):
        evaluate_checkpoints([path], n=10, suite="quick")
    assert not list(run.rglob("record.json"))


def test_no_runs_at_all(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="no checkpoints to score"):
            evaluate_checkpoints(runs=folder)


def test_a_record_says_how_its_model_was_trained(run: Path) -> None:
    about = {
        "changes": {"objective": "adp"},
        "steps": 120,
        "objective": "adp",
        "match": None,
        "settings": {"learning_rate": 0.1},
    }
    info = checkpoint.read_info(run / "last.safetensors")
    checkpoint.save(run / "last.safetensors", trained(eps=0.0), ARCHITECTURE, info.meta | about)
    best, last = evaluate_checkpoints([run / "best.safetensors", run / "last.safetensors"], suite="ifgsm1", n=8)
    assert last.training == about | {"eps": 32 / 255}
    assert last.path is not None
    assert read_record(last.path) == last
    assert best.training is None  # a description from before says neither steps nor settings
