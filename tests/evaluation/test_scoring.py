"""Scoring: the rows of the samples against direct calls of the attacks, whole and in blocks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import Wrapped, blackbox_set, odd_and_even, trained

from ensemble_bench import ThreatModel, attacks, data
from ensemble_bench.attacks.engine import Budget
from ensemble_bench.data import ImageSet
from ensemble_bench.evaluation import scoring
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.scoring import Job, score
from ensemble_bench.records import worst_case

THREAT = ThreatModel(eps=0.1)


def first(n: int) -> ImageSet:
    return data.open_source("digits").split("test").first(n)


def job(n: int = 60, names: tuple[str, ...] = ("ifgsm5", "apgd10"), batch_size: int = 32, **changes: Any) -> Job:
    plain = Job(
        label="model",
        model=trained(),
        images=first(n),
        threat=THREAT,
        attacks=[attacks.get(name) for name in names],
        cascade=False,
        budget=Budget(batch_size=batch_size),
    )
    return replace(plain, **changes)


def in_memory() -> Journal:
    return Journal(None, "x")


def test_rows_are_what_the_attacks_find() -> None:
    model, digits = odd_and_even(60)
    scores = score(j := job(model=model, images=digits), in_memory())
    x, y = j.images.batch(slice(None))
    with torch.no_grad():
        prediction = j.model(x).argmax(dim=1)
    samples = scores.samples
    assert samples["id"].tolist() == j.images.ids.tolist()
    assert samples["label"].tolist() == y.tolist()
    assert samples["clean_prediction"].tolist() == prediction.tolist()
    assert samples["clean"].tolist() == (prediction == y).tolist()
    right = prediction == y
    for attack in j.attacks:
        outcome = attack.run(j.model, x, y, THREAT, ids=j.images.ids)
        assert samples[attack.name].tolist() == (~outcome.broken).tolist()
        assert samples[f"{attack.name}_steps"].tolist() == outcome.steps.tolist()
        margin = torch.from_numpy(samples[f"{attack.name}_margin"].to_numpy(copy=True))
        assert margin[~right].isnan().all()  # not attacked
        torch.testing.assert_close(margin[right], outcome.margin[right], rtol=0, atol=1e-4)
    assert scores.unstable == 0
    for attack in j.attacks:
        (stage,) = scores.stages[attack.name]
        assert (stage.name, stage.attacked, stage.zero_gradients) == (attack.name, right.sum(), 0)
        assert stage.broken == (right.numpy() & ~samples[attack.name].to_numpy()).sum()
        assert stage.passes > stage.attacked
    assert scores.classes == 2


def test_broken_by_is_the_first_attack_that_broke_it() -> None:
    samples = score(job(), in_memory()).samples
    for row in samples.to_dict("records"):
        broke = [name for name in ("ifgsm5", "apgd10") if row["clean"] and not row[name]]
        found = None if pd.isna(row["broken_by"]) else row["broken_by"]
        assert found == (broke[0] if broke else None)
    assert samples["broken_by"].nunique() == 2  # the second attack has something to add


def test_a_cascade_attacks_only_what_is_left_and_ends_at_the_same_worst_case() -> None:
    names = ("ifgsm5", "margin10", "apgd10")
    every, cascade = (
        score(job(names=names), in_memory()).samples,
        score(job(names=names, cascade=True), in_memory()).samples,
    )
    worst = every["clean"] & every["ifgsm5"] & every["margin10"] & every["apgd10"]
    assert (cascade["apgd10"] == worst).all()
    assert cascade["broken_by"].equals(every["broken_by"])
    for earlier, later in (("ifgsm5", "margin10"), ("margin10", "apgd10")):
        assert not (cascade[later] & ~cascade[earlier]).any()
        assert cascade.loc[~cascade[earlier], f"{later}_margin"].isna().all()


@pytest.mark.parametrize("cascade", [False, True])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, cascade: bool) -> None:
    model, digits = odd_and_even(60)
    whole = score(job(cascade=cascade, model=model, images=digits), in_memory())
    assert 0 < worst_case(whole.samples).sum() < 60
    monkeypatch.setattr(scoring, "BLOCK", 7)
    parts = score(job(cascade=cascade, batch_size=3, model=model, images=digits), in_memory())
    for column in whole.samples:
        if column.endswith("_margin"):
            np.testing.assert_allclose(parts.samples[column], whole.samples[column], atol=1e-3)
        else:
            assert parts.samples[column].equals(whole.samples[column])


def test_an_attack_that_holds_only_some_images_leaves_the_others_null() -> None:
    blackbox = attacks.get("blackbox", path=blackbox_set())
    j = job(attacks=[attacks.get("ifgsm5"), blackbox], threat=ThreatModel(eps=32 / 255))
    samples = score(j, in_memory()).samples
    covered = blackbox.covers(j.images.ids).numpy()
    assert samples["blackbox"].dtype == "boolean"
    assert samples["blackbox"].notna().tolist() == covered.tolist()
    assert 0 < covered.sum() < 60
    x, y = j.images.batch(slice(None))
    robust = ~blackbox.run(j.model, x, y, j.threat, ids=j.images.ids).broken.numpy()
    assert samples["blackbox"][covered].astype(bool).tolist() == robust[covered].tolist()


def test_what_the_journal_holds_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BLOCK", 20)
    expected = score(job(), Journal(tmp_path / "j", "x"))

    def never(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was asked")

    again = score(job(model=Wrapped(trained(), never)), Journal(tmp_path / "j", "x"))
    pd.testing.assert_frame_equal(again.samples, expected.samples)
    assert again.stages == expected.stages


def test_progress_is_told_per_attack_and_ends_at_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BLOCK", 25)
    heard: dict[str, list[tuple[int, int]]] = {}

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        heard.setdefault(label, []).append((done, total))

    score(job(progress=progress), in_memory())
    assert list(heard) == ["model clean", "model ifgsm5", "model apgd10"]
    for calls in heard.values():
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert {total for _, total in calls} == {60}
        assert calls[-1][0] == 60


def test_a_model_that_changes_its_mind_is_noticed() -> None:
    noisy = Wrapped(trained(), lambda logits, x: logits + 3 * torch.randn(logits.shape))
    assert score(job(model=noisy, names=("ifgsm5",)), in_memory()).unstable > 0
