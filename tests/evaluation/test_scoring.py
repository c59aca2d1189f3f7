"""Scoring: the rows of the samples against direct calls of the attacks, whole and in blocks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import Wrapped, blackbox_set, odd_and_even, recorded, trained

from ensemble_bench import ThreatModel, attacks, data
from ensemble_bench.attacks.engine import Budget
from ensemble_bench.data import ImageSet
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.scoring import score
from ensemble_bench.progress import Progress
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
    monkeypatch.setattr(jobs, "BLOCK", 7)
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
    monkeypatch.setattr(jobs, "BLOCK", 20)
    expected = score(job(), Journal(tmp_path / "j", "x"))

    def never(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was asked")

    again = score(job(model=Wrapped(trained(), never)), Journal(tmp_path / "j", "x"))
    pd.testing.assert_frame_equal(again.samples, expected.samples)
    assert again.stages == expected.stages


def test_attacks_are_told_the_logits_of_clean_images(tmp_path: Path) -> None:
    """They ask only for what they find: five times forward and backward, and a verdict, as no image falls here."""
    names, harmless = ("ifgsm5", "ifgsm7"), ThreatModel(eps=1e-5)
    scores = score(job(names=names, threat=harmless), Journal(tmp_path / "j", "x"))
    for name, steps in zip(names, (5, 7), strict=True):
        (stage,) = scores.stages[name]
        assert (stage.broken, stage.passes) == (0, stage.attacked * (2 * steps + 1))
    # Where the journal has the clean images, but not what an attack did, they are asked for again, once.
    lines = (tmp_path / "j").read_text().splitlines(keepends=True)
    (tmp_path / "j").write_text("".join(line for line in lines if "ifgsm" not in line))
    model = trained()
    with recorded(model) as calls:
        again = score(job(names=names, threat=harmless, model=model), Journal(tmp_path / "j", "x"))
    assert sum(n for n, gradient in calls if not gradient) == 60 + sum(s.attacked for (s,) in again.stages.values())
    pd.testing.assert_frame_equal(again.samples, scores.samples)


Heard = dict[str, list[tuple[int, int, dict[str, float | str]]]]


def hearing() -> tuple[Heard, Progress]:
    heard: Heard = {}

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        heard.setdefault(label, []).append((done, total, fields))

    return heard, progress


@pytest.mark.parametrize("cascade", [False, True])
def test_a_suite_has_one_line_of_progress_and_one_an_attack(monkeypatch: pytest.MonkeyPatch, cascade: bool) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 25)
    heard, progress = hearing()
    names = ("ifgsm5", "apgd-t4", "apgd10")
    scores = score(j := job(names=names, cascade=cascade, progress=progress), in_memory())
    assert set(heard) == {"model clean", "model attacks", *(f"model {name}" for name in names)}
    whole = heard["model attacks"]
    assert [done for done, *_ in whole] == sorted(done for done, *_ in whole)
    assert all(done < total for done, total, _ in whole[:-1])
    passes = sum(stage.passes for stages in scores.stages.values() for stage in stages)
    standing = int(worst_case(scores.samples).sum())
    assert whole[-1] == (passes, passes, {"standing": standing})
    stages = list(dict.fromkeys(str(fields["stage"]) for *_, fields in whole[:-1]))
    ran = [stage.name for name in names for stage in scores.stages[name]]
    assert stages == [f"{i} of 11: {name}" for i, name in enumerate(ran, start=1)]
    if cascade:
        assert whole[0][2]["standing"] == scores.samples["clean"].sum()
        left = [int(fields["standing"]) for *_, fields in whole]
        assert left == sorted(left, reverse=True)
    for attack in j.attacks:
        ((done, total, fields),) = heard[f"model {attack.name}"]
        broken = sum(stage.broken for stage in scores.stages[attack.name])
        assert done == total == scores.stages[attack.name][0].attacked
        assert str(fields["status"]).startswith(f"broke {broken} of {total}")


def test_nothing_runs_on_when_nothing_stands() -> None:
    heard, progress = hearing()
    model = Wrapped(trained(), lambda logits, x: logits)
    names = ("margin20", "apgd-t5", "ifgsm5")
    j = job(model=model, names=names, cascade=True, progress=progress, threat=ThreatModel(eps=0.9))
    with recorded(model) as calls:
        scores = score(j, in_memory())
    assert not worst_case(scores.samples).any()
    # Predictions on clean images, twice; the attack; and one look at what it broke.
    broken = int(scores.samples["clean"].sum())
    assert sum(n for n, _ in calls) <= 120 + broken * (1 + 20 + 2) + broken
    assert [(stage.name, stage.attacked) for stage in scores.stages["apgd-t5"]] == [("apgd-t5/target1", 0)]
    assert [(stage.name, stage.attacked, stage.passes) for stage in scores.stages["ifgsm5"]] == [("ifgsm5", 0, 0)]
    assert heard["model attacks"][-1][2] == {"standing": 0, "status": "nothing stood for apgd-t5, ifgsm5"}
    assert "model ifgsm5" not in heard


def test_every_broken_image_says_what_it_is_taken_for() -> None:
    samples = score(j := job(names=("ifgsm5", "margin10"), cascade=True), in_memory()).samples
    broken = samples["broken_by"].notna()
    assert broken.any()
    assert samples["adversarial_prediction"].notna().equals(broken)
    assert (samples["adversarial_prediction"] != samples["label"])[broken].all()
    x, y = j.images.batch(slice(None))
    first = (samples["broken_by"] == "ifgsm5").to_numpy(copy=True)
    x_adv = j.attacks[0].run(j.model, x, y, THREAT, ids=j.images.ids).x_adv[first]
    with torch.no_grad():
        assert samples["adversarial_prediction"][first].tolist() == j.model(x_adv).argmax(dim=1).tolist()


def test_a_model_that_changes_its_mind_is_noticed() -> None:
    noisy = Wrapped(trained(), lambda logits, x: logits + 3 * torch.randn(logits.shape))
    assert score(job(model=noisy, names=("ifgsm5",)), in_memory()).unstable > 0
