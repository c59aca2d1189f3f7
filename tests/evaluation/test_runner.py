"""The runner: what a record says follows from its samples, and no order or second call changes it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated_runs import N, same_but_seconds
from small_models import ARCHITECTURE, Linear, blackbox_set, recorded, trained

import ensemble_bench as eb
from ensemble_bench.errors import AttackError, InvalidValueError, UnknownNameError
from ensemble_bench.evaluation.runner import Result, evaluate, evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.records import Record, read_record, read_samples, worst_case
from ensemble_bench.records.statistics import wilson
from ensemble_bench.registry import SUITES, Suite

PAPER = ("ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def result(out: Path) -> Result:
    return evaluate(trained(members=2), n=N, blackbox=blackbox_set(), out=out)


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
    assert result.record.training is None  # a model in memory


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
