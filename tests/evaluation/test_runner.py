"""The runner: what a record says follows from its samples, and no kill, order or second call changes it."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rounding
import torch
from killing import Killed, killing
from small_models import ARCHITECTURE, Linear, blackbox_set, recorded, trained

import ensemble_bench as eb
from ensemble_bench.errors import AttackError, CheckpointError, InvalidValueError, UnknownNameError
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.runner import Result, evaluate, evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.records import Record, find_records, read_record, read_samples, worst_case
from ensemble_bench.records.statistics import wilson
from ensemble_bench.registry import SUITES, Suite

N = 48
PAPER = ("ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox")


def same_but_seconds(record: Record) -> dict[str, Any]:
    values = record.as_dict()
    for part in (values, *values["attacks"]):
        del part["seconds"]
        for stage in part.get("stages") or ():
            del stage["seconds"]
    return values


def make_run(folder: Path, *, seed: int = 0, names: tuple[str, ...] = ("best", "last")) -> Path:
    """A run folder as the trainer leaves it."""
    meta = {
        "recipe": "singleadv",
        "preset": "tiny",
        "dataset": "digits",
        "data_name": "digits",
        "seed": seed,
        "seeds": [seed],
        "step": 120,
        "threat": {"norm": "linf", "eps": 32 / 255},
    }
    for i, name in enumerate(names):
        model = trained(seed=seed, eps=0.1 if i == 0 else 0.0)
        checkpoint.save(folder / f"{name}.safetensors", model, ARCHITECTURE, {**meta, "checkpoint": name})
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "singleadv-s0")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def result(out: Path) -> Result:
    return evaluate(trained(members=2), n=N, blackbox=blackbox_set(), out=out)


def test_a_record_says_how_its_model_was_trained(run: Path, result: Result) -> None:
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
    assert result.record.training is None  # a model in memory


# What a result holds


def test_the_worst_case_is_every_column_at_once(result: Result) -> None:
    samples = result.samples
    standing = samples["clean"].to_numpy().copy()
    for name in PAPER:
        standing &= samples[name].fillna(True).to_numpy(dtype=bool)
    assert (worst_case(samples) == standing).all()
    assert result.record.robust.robust == standing.sum()
    assert result.robust_accuracy == standing.mean()
    assert 0 < standing.sum() < N
    assert (samples["broken_by"].isna() == (standing | ~samples["clean"])).all()


def test_counts_and_intervals_match_the_samples(result: Result) -> None:
    samples, record = result.samples, result.record
    assert (record.clean.correct, record.n) == (samples["clean"].sum(), N)
    assert (samples["clean"] == (samples["clean_prediction"] == samples["label"])).all()
    assert result.clean_accuracy == samples["clean"].mean()
    assert [a.name for a in record.attacks] == list(PAPER) == list(result.per_attack)
    for attack in record.attacks:
        column = samples[attack.name].dropna().astype(bool)
        assert (attack.n, attack.robust) == (len(column), column.sum())
        assert result.per_attack[attack.name] == attack.accuracy == column.mean()
        assert (attack.ci_low, attack.ci_high) == wilson(attack.robust, attack.n)
        assert attack.credit == (samples["broken_by"] == attack.name).sum()
        assert not (column & ~samples["clean"][column.index]).any()
    assert record.clean.correct - sum(a.credit for a in record.attacks) == record.robust.robust


def test_curves_fall_from_the_start_to_the_accuracy(result: Result) -> None:
    for attack in result.record.attacks:
        if attack.name == "blackbox":
            assert attack.curve is None
            continue
        assert attack.curve is not None
        assert len(attack.curve) == attack.settings["steps"] + 1
        assert list(attack.curve) == sorted(attack.curve, reverse=True)
        assert attack.curve[-1] == pytest.approx(attack.accuracy)
        assert attack.curve[0] <= result.clean_accuracy
        lost = (~result.samples[attack.name]) & (result.samples[f"{attack.name}_steps"] <= 2)
        assert attack.curve[2] == pytest.approx(1 - lost.mean())


def test_the_record_says_where_the_numbers_come_from(result: Result) -> None:
    record = result.record
    assert (record.dataset, record.data_name, record.split, record.suite) == ("digits", "digits", "test", "paper")
    assert record.data_hash == eb.data.open_source("digits").fingerprint
    assert (record.threat.norm, record.threat.eps) == ("linf", 32 / 255)
    assert result.threat == eb.ThreatModel(eps=32 / 255)
    assert record.forward_passes == 2
    assert record.parameters == sum(p.numel() for p in trained(members=2).parameters())
    assert record.blackbox is not None
    assert record.blackbox.n == result.samples["blackbox"].notna().sum()
    assert record.blackbox.hash == json.loads(blackbox_set().with_suffix(".json").read_text())["hash"]
    assert record.seconds > 0
    assert record.warnings == result.warnings


def test_files_hold_what_the_result_holds(result: Result, out: Path) -> None:
    assert sorted(p.name for p in out.iterdir()) == ["record.json", "samples.parquet"]
    assert read_record(out) == result.record
    pd.testing.assert_frame_equal(read_samples(out), result.samples, check_dtype=False)
    plain = pd.read_parquet(out / "samples.parquet")
    assert list(plain) == list(result.samples)
    for column in plain:
        theirs, ours = plain[column], result.samples[column]
        assert (theirs.isna() == ours.isna()).all()
        assert (theirs.dropna() == ours.dropna()).all()


def test_samples_name_the_images_in_the_order_of_the_split(result: Result) -> None:
    split = eb.data.open_source("digits").split("test").first(N)
    assert result.samples["id"].tolist() == split.ids.tolist()
    assert result.samples["label"].tolist() == split.labels.tolist()


def test_a_second_call_reads_the_record_and_another_one_replaces_it(result: Result, out: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(out, tmp_path / "copy"))
    model = trained(members=2)
    with recorded(model) as calls:
        again = evaluate(model, n=N, blackbox=blackbox_set(), out=folder)
    assert N not in {rows for rows, _ in calls}  # it tells which model this is, of a few images; nothing is attacked
    assert again.record == result.record
    pd.testing.assert_frame_equal(again.samples, result.samples)
    other = evaluate(trained(seed=1), n=N, suite="quick", out=folder)
    assert read_record(folder) == other.record != result.record


def test_the_same_evaluation_gives_the_same_bytes(result: Result, out: Path, tmp_path: Path) -> None:
    again = evaluate(trained(members=2), n=N, blackbox=blackbox_set(), out=tmp_path)
    assert (tmp_path / "samples.parquet").read_bytes() == (out / "samples.parquet").read_bytes()
    assert same_but_seconds(again.record) == same_but_seconds(result.record)


def test_the_model_is_left_as_it_was() -> None:
    model = trained().train()
    model.members[0].eval()
    modes = [m.training for m in model.modules()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    evaluate(model, n=10, suite="quick")
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_any_module_can_be_scored_without_writing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = eb.data.load("digits", split="train")
    centres = torch.stack([x[y == c].flatten(1).mean(dim=0) for c in range(10)])
    model = Linear(2 * centres, -centres.square().sum(dim=1))  # nearest class mean
    found = evaluate(model, n=30, suite="quick", threat=eb.ThreatModel(norm="l2", eps=0.3))
    assert found.clean_accuracy > 0.8
    assert found.record.recipe is None
    assert found.record.architecture is None
    assert found.threat == eb.ThreatModel(norm="l2", eps=0.3)
    assert list(tmp_path.iterdir()) == []


def test_adding_an_attack_never_raises_robust_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("pgd5", "ifgsm5", "margin5", "apgd5")
    found = []
    for k in range(1, len(names) + 1):
        for cascade in (False, True):
            suite = Suite(name="test", attacks=names[:k], cascade=cascade, description="")
            monkeypatch.setitem(SUITES, "test", suite)  # type: ignore[arg-type]
            found.append(evaluate(trained(), suite="test", n=N))
    standing = [worst_case(r.samples) for r in found]
    for fewer, more in zip(standing, standing[2:], strict=False):
        assert not (more & ~fewer).any()
    for every, cascade in zip(standing[::2], standing[1::2], strict=True):
        assert (every == cascade).all()
    assert found[-1].robust_accuracy < found[0].robust_accuracy
    Record.from_dict(found[-1].record.as_dict())


@pytest.mark.parametrize("batch_size", [5, 300])
def test_batch_size_changes_no_verdict(result: Result, batch_size: int) -> None:
    other = evaluate(trained(members=2), n=N, blackbox=blackbox_set(), batch_size=batch_size)
    for column in result.samples:
        if not column.endswith("_margin"):
            assert other.samples[column].equals(result.samples[column])
    assert other.record.id == result.record.id


def test_the_seed_changes_the_starts_and_the_id(result: Result) -> None:
    other = evaluate(trained(members=2), n=N, blackbox=blackbox_set(), seed=1)
    assert other.record.id != result.record.id
    assert not np.array_equal(other.samples["pgd20_margin"], result.samples["pgd20_margin"], equal_nan=True)


# Kills


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_anywhere_and_resumed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 20)
    expected = evaluate(trained(), n=N, blackbox=blackbox_set(), out=tmp_path / "whole")
    draw, kills = random.Random(seed), 0
    while True:
        after = draw.randint(3, 40)
        try:
            found = evaluate(trained(), n=N, blackbox=blackbox_set(), out=tmp_path / "killed", progress=killing(after))
            break
        except Killed:
            kills += 1
            assert not (tmp_path / "killed" / "record.json").exists()
    assert kills > 2
    names = ("whole", "killed")
    whole, killed = ((tmp_path / name / "samples.parquet").read_bytes() for name in names)
    assert whole == killed
    assert same_but_seconds(found.record) == same_but_seconds(expected.record)
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == ["record.json", "samples.parquet"]


def test_finished_blocks_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 20)
    model = trained()
    with recorded(model) as calls:
        evaluate(model, n=N, suite="sweep10", out=tmp_path / "whole")
    whole = sum(n for n, _ in calls)
    journal = tmp_path / "killed" / "journal.jsonl"
    # A line that names the evaluation, and for the clean images and each of ten stages one a block.
    whole_journal = 1 + 3 * 11
    finished = [0]
    with recorded(model) as calls:
        while finished[-1] == 0 or journal.exists():
            with contextlib.suppress(Killed):
                evaluate(model, n=N, suite="sweep10", out=journal.parent, progress=killing(40))
            finished.append(len(journal.read_text().splitlines()) if journal.exists() else whole_journal)
    assert len(finished) > 2
    assert finished == sorted(finished)
    assert finished[-2] < whole_journal
    # Each kill costs one block's work at most.
    assert whole <= sum(n for n, _ in calls) < whole + (len(finished) - 2) * 20 * 2 * 21


SCRIPT = """
import sys, time
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.runner import evaluate_checkpoints
jobs.BLOCK = 20
def progress(label, done, total, **fields):
    print(label, done, fields.get("stage"), fields.get("standing"), flush=True)
    time.sleep(0.01)
evaluate_checkpoints([sys.argv[1]], n=int(sys.argv[2]), blackbox=sys.argv[3], progress=progress)
"""


@pytest.mark.skipif(bool(rounding.SEED), reason="a process of its own rounds as this processor does")
def test_a_process_killed_with_sigkill_loses_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 20)
    other = Path(shutil.copytree(run, tmp_path / "other" / run.name))
    (expected,) = evaluate_checkpoints([other], n=N, blackbox=blackbox_set())
    command = [sys.executable, "-c", SCRIPT, str(run), str(N), str(blackbox_set())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ) as p:
        assert p.stdout is not None
        steps = 0
        for line in p.stdout:
            steps += "3 of 5: pgd5" in line
            if steps == 9:  # within its second block, after the five steps of the first, its start and its end
                p.send_signal(signal.SIGKILL)
                break
    assert p.returncode == -signal.SIGKILL
    (journal,) = run.rglob("journal.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {"ifgsm5", "ifgsm7", "clean"} <= {e.get("attack") for e in entries}
    assert not list(run.rglob("record.json"))

    (found,) = evaluate_checkpoints([run], n=N, blackbox=blackbox_set())
    assert same_but_seconds(found) == same_but_seconds(expected)
    folders = [next(root.rglob("record.json")).parent for root in (run, other)]
    one, two = ((folder / "samples.parquet").read_bytes() for folder in folders)
    assert one == two
    assert not list(run.rglob("journal.jsonl"))


# Checkpoints


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


# Bad values


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"suite": "papr"}, UnknownNameError, "did you mean paper"),
        ({"dataset": "digit"}, UnknownNameError, "did you mean digits"),
        ({"split": "tests"}, UnknownNameError, "unknown split 'tests'"),
        ({"n": 361}, InvalidValueError, "n is 361: the test split of digits holds 360 images"),
        ({"n": 0}, InvalidValueError, "n is 0"),
        ({"batch_size": -2}, InvalidValueError, "batch_size is -2"),
        ({"batch_size": 0}, InvalidValueError, "batch_size is 0"),
        ({"precision": "half"}, InvalidValueError, "precision is 'half'"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        evaluate(trained(), **{"suite": "quick", "n": 10, "out": tmp_path / "out", **arguments})
    assert not (tmp_path / "out" / "record.json").exists()


def test_only_what_answers_with_logits_is_scored() -> None:
    with pytest.raises(
        AttackError, match=r"gave logits of shape \(8, 1, 8, 8\) for 8 images: expected \(batch, class\)"
    ):
        evaluate(lambda x: x, suite="quick")
    for model, told in (("run", "eb.load makes one of a name"), ([], "model is a list: .*eb.Ensemble joins several")):
        with pytest.raises(InvalidValueError, match=told):
            evaluate(model, suite="quick")  # type: ignore[arg-type]


def test_a_name_of_ones_own_changes_nothing_else(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run" / "best.safetensors", trained(), ARCHITECTURE, {"recipe": "singleadv"})
    model = checkpoint.load(tmp_path / "run")
    plain, named = (evaluate(model, suite="ifgsm1", n=2, name=name).record for name in (None, "mine"))
    assert (plain.model, named.model) == ("run/best", "mine")
    assert (named.id, named.weights_hash, named.recipe) == (plain.id, plain.weights_hash, "singleadv")
    assert evaluate(trained(), suite="ifgsm1", n=2).record.model == "model"


def test_a_black_box_set_of_another_threat_data_or_split_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # sets are looked for in runs/, which may hold some
    with pytest.raises(InvalidValueError, match="its threat is"):
        evaluate(trained(), n=10, blackbox=blackbox_set(), threat=eb.ThreatModel(eps=0.1))
    with pytest.raises(InvalidValueError, match="its split is 'test', the evaluation's 'validation'"):
        evaluate(trained(), n=10, blackbox=blackbox_set(), split="validation")
    with pytest.raises(InvalidValueError, match="black-box sets are of the test split"):
        evaluate(trained(), n=10, split="validation")
    path = tmp_path / "set.safetensors"
    shutil.copy(blackbox_set(), path)
    info = json.loads(blackbox_set().with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**info, "data_hash": "sha256:0"}))
    with pytest.raises(InvalidValueError, match="its data_hash is"):
        evaluate(trained(), n=10, blackbox=path)


def test_a_model_of_other_images_is_refused(tmp_path: Path) -> None:
    architecture = replace(ARCHITECTURE, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)
    from ensemble_bench.models.build import build

    checkpoint.save(tmp_path / "best.safetensors", build(architecture), architecture, {"dataset": "digits"})
    with pytest.raises(InvalidValueError, match=r"takes images of shape \(3, 32, 32\), digits has \(1, 8, 8\)"):
        evaluate_checkpoints([tmp_path], suite="quick")
