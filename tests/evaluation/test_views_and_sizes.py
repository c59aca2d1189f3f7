"""Parts of an ensemble scored on their own, and several threat sizes in one run."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import ARCHITECTURE, images, trained

import ensemble_bench as eb
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import Record, read_samples, worst_case
from ensemble_bench.registry import SUITES, Suite

N = 40
SIZES = (16 / 255, 28 / 255, 40 / 255)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of an ensemble of two."""
    meta = {"recipe": "ensemble2adv", "dataset": "digits", "threat": {"norm": "linf", "eps": 24 / 255}}
    architecture = replace(ARCHITECTURE, members=2)
    checkpoint.save(tmp_path / "e-s0" / "best.safetensors", trained(members=2), architecture, meta)
    return tmp_path / "e-s0"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> str:
    """A suite that scores parts."""
    suite = Suite(name="parts", attacks=("margin5", "margin-doubled20"), views=("margin-doubled20",), description="")
    monkeypatch.setitem(SUITES, "parts", suite)  # type: ignore[arg-type]
    return "parts"


# Parts


def test_members_and_logit_average_get_records_of_their_own(run: Path, parts: str) -> None:
    records = evaluate_checkpoints([run], n=N, suite=parts)
    assert [(r.model, r.view) for r in records] == [
        ("e-s0/best", None),
        ("e-s0/best#member1", "member1"),
        ("e-s0/best#member2", "member2"),
        ("e-s0/best#logit", "logit"),
    ]
    assert [len(r.attacks) for r in records] == [2, 1, 1, 1]
    assert [r.forward_passes for r in records] == [2, 1, 1, 2]
    assert len({r.id for r in records}) == len({r.path for r in records}) == 4
    assert evaluate_checkpoints([run], n=N, suite=parts) == records


def test_a_part_scores_as_that_module_does(run: Path, parts: str) -> None:
    _, first, _, logit = evaluate_checkpoints([run], n=N, suite=parts)
    whole = eb.load(run)
    x, y = images(N)
    for record, model in ((first, Ensemble([whole.members[0]])), (logit, whole.aggregate_as("logit"))):
        with torch.no_grad():
            assert record.clean.correct == (model.eval()(x).argmax(dim=1) == y).sum()
        outcome = eb.attacks.get("margin-doubled20").run(model, x, y, eb.ThreatModel(eps=24 / 255))
        assert record.robust.robust == (~outcome.broken).sum()


def test_single_networks_have_no_parts(tmp_path: Path, parts: str) -> None:
    meta = {"dataset": "digits", "threat": {"norm": "linf", "eps": 24 / 255}}
    checkpoint.save(tmp_path / "best.safetensors", trained(), ARCHITECTURE, meta)
    assert [r.view for r in evaluate_checkpoints([tmp_path], n=N, suite=parts)] == [None]


def test_stages_are_in_the_record(run: Path, parts: str) -> None:
    record = evaluate_checkpoints([run], n=N, suite=parts)[0]
    plain, doubled = record.attacks
    assert plain.stages is None
    assert doubled.stages is not None
    assert [s.name for s in doubled.stages] == ["margin-doubled20/10", "margin-doubled20/20"]
    assert doubled.stages[0].attacked == record.clean.correct
    assert doubled.stages[1].attacked == record.clean.correct - doubled.stages[0].broken
    assert doubled.robust == record.clean.correct - sum(s.broken for s in doubled.stages)
    assert doubled.passes == sum(s.passes for s in doubled.stages)
    assert Record.from_dict(record.as_dict()) == record


# Sizes


@pytest.mark.parametrize("suite", ["ifgsm3+margin10", "autoattack3"])
def test_sizes_give_a_record_each_that_fall_and_carry_over(
    run: Path, suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = Suite(name="autoattack3", attacks=("ifgsm3", "margin10"), cascade=True, description="")
    monkeypatch.setitem(SUITES, "autoattack3", cascade)  # type: ignore[arg-type]
    records = evaluate_checkpoints([run], n=N, suite=suite, eps=SIZES[::-1])
    assert [r.threat.eps for r in records] == list(SIZES)
    standing = [worst_case(read_samples(r.path.parent)) for r in records if r.path]
    for small, large in itertools.pairwise(standing):
        assert not (large & ~small).any()
    assert records[0].robust.robust > records[1].robust.robust > records[2].robust.robust
    assert [r.attacks[0].name for r in records] == ["ifgsm3", "smaller-eps", "smaller-eps"]
    for before, record in itertools.pairwise(records):
        carried = record.attacks[0]
        assert carried.settings == {"name": "smaller-eps", "eps": before.threat.eps, "record": before.id}
        assert carried.robust == before.robust.robust
        assert carried.credit == record.clean.correct - before.robust.robust
        for attack in record.attacks[1:]:
            assert attack.n == N
            assert attack.robust <= before.robust.robust
        assert Record.from_dict(record.as_dict()) == record


def test_what_fell_is_not_attacked_again(run: Path) -> None:
    small, large = evaluate_checkpoints([run], n=N, suite="margin10", eps=SIZES[:2])
    alone = evaluate_checkpoints([run], n=N, suite="margin10", eps=SIZES[1])[0]
    samples = read_samples(large.path.parent)  # type: ignore[union-attr]
    fallen = samples["broken_by"] == "smaller-eps"
    assert fallen.sum() == small.clean.correct - small.robust.robust > 0
    assert np.isnan(samples.loc[fallen, "margin10_margin"].to_numpy()).all()
    before = read_samples(small.path.parent)  # type: ignore[union-attr]
    assert samples["adversarial_prediction"][fallen].tolist() == before["adversarial_prediction"][fallen].tolist()
    assert samples["adversarial_prediction"].notna().equals(samples["broken_by"].notna())
    assert large.attacks[1].passes < alone.attacks[0].passes  # type: ignore[operator]
    assert large.robust.robust <= alone.robust.robust
    assert large.id != alone.id


def test_sizes_are_checked(run: Path) -> None:
    with pytest.raises(InvalidValueError, match="eps is 8"):
        evaluate_checkpoints([run], n=N, suite="margin3", eps=[4 / 255, 8])
    assert not list(run.rglob("record.json"))
