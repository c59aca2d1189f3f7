"""The probe: its attacks against closed forms and against the attacks themselves; resumed, bounded, named in errors."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import Wrapped, odd_and_even, trained
from torch import Tensor

import ensemble_bench as eb
from ensemble_bench import ThreatModel, attacks, data
from ensemble_bench.attacks.engine import Budget, Chain
from ensemble_bench.data import ImageSet
from ensemble_bench.errors import AttackError
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.runner import Result
from ensemble_bench.evaluation.scoring import Scores, score
from ensemble_bench.evaluation.triage import reach_of_grey
from ensemble_bench.evaluation.trust import probe as probes
from ensemble_bench.evaluation.trust.probe import Probe, probe
from ensemble_bench.registry import suites

THREAT = ThreatModel(eps=0.1)


def first(n: int) -> ImageSet:
    return data.open_source("digits").split("test").first(n)


def job(n: int = 60, names: Sequence[str] = (), batch_size: int = 64, **changes: Any) -> Job:
    plain = Job(
        label="model",
        model=trained(),
        images=first(n),
        threat=THREAT,
        attacks=[attacks.get(name) for name in names],
        cascade=True,
        budget=Budget(batch_size=batch_size),
    )
    return replace(plain, **changes)


def in_memory() -> Journal:
    return Journal(None, "x")


def probed(j: Job) -> tuple[Probe, Scores]:
    scores = score(j, in_memory())
    return probe(j, scores, in_memory()), scores


def test_a_linear_model_against_its_closed_form() -> None:
    """Every attack reaches the optimum of a linear model: every pixel as far as the ball and the box let it."""
    model, images = odd_and_even(120)
    j = job(n=120, model=model, images=images, threat=ThreatModel(eps=0.05))
    found, scores = probed(j)
    rows = np.flatnonzero(scores.samples["clean"])
    x, y = (v[rows] for v in j.images.batch(slice(None)))
    weight, bias = j.model.weight.detach(), j.model.bias.detach()
    # Of the wrong class minus the right one.
    direction, offset = (weight[1 - y] - weight[y]), bias[1 - y] - bias[y]

    def robust(eps: float) -> list[bool]:
        furthest = (x.flatten(1) + eps * direction.sign()).clamp(0, 1)
        return ((furthest * direction).sum(dim=1) + offset < 0).tolist()

    for tried in (found.plain, found.autoattack, found.single_step):
        assert list(tried.standing) == robust(0.05)
    assert 0 < found.plain.left < len(rows) < 120
    assert list(found.large.standing) == robust(0.5) == [False] * len(rows)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_within_the_large_eps_every_image_reaches_grey(norm: str) -> None:
    j = job(n=1, threat=ThreatModel(norm=norm, eps=0.1))
    large = reach_of_grey(j)
    corner = torch.zeros(1, 1, 8, 8)
    corner[..., ::2] = 1
    grey = torch.full_like(corner, 0.5)
    large.check(grey, corner)
    with pytest.raises(AttackError, match="leaves the"):
        replace(large, eps=large.eps * 0.99).check(grey, corner)
    assert large.eps == (0.5 if norm == "linf" else 4.0)
    assert reach_of_grey(replace(j, threat=ThreatModel(norm="l2", eps=9.0))).eps == 9.0


def test_it_is_what_the_attacks_find_on_the_first_correct_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "IMAGES", 40)
    labels = first(60).labels.clone()
    labels[:5] = 9 - labels[:5]
    found, scores = probed(j := job(images=replace(first(60), labels=labels), model=trained(eps=0.0)))
    rows = np.flatnonzero(scores.samples["clean"])[:40]
    assert rows[0] == 5
    x, y = (v[rows] for v in j.images.batch(slice(None)))

    def standing(name: str, threat: ThreatModel = THREAT) -> np.ndarray[Any, Any]:
        attack = replace(attacks.get(name), name=f"probe/{name}")
        return ~attack.run(j.model, x, y, threat, ids=j.images.ids[rows]).broken.numpy()

    assert list(found.plain.standing) == standing("margin20").tolist()
    assert list(found.single_step.standing) == standing("ifgsm1").tolist()
    first_loss, second_loss = standing("apgd20"), standing("apgd-dlr20")
    assert list(found.autoattack.standing) == (first_loss & second_loss).tolist()
    assert list(found.large.standing) == standing("margin50", ThreatModel(eps=0.5)).tolist()
    assert 0 < found.plain.left < 40
    assert [t.attack for t in (found.plain, found.autoattack, found.single_step, found.large)] == [
        "margin20",
        "apgd20+apgd-dlr20",
        "ifgsm1",
        "margin50",
    ]


def test_batch_size_changes_nothing() -> None:
    scores = score(job(), in_memory())
    large, small = (probe(job(batch_size=size), scores, in_memory()) for size in (64, 7))
    assert replace(small, passes=0) == replace(large, passes=0)


def test_images_that_a_blind_attack_broke_first_meet_one_that_follows_gradients() -> None:
    flat = Wrapped(trained(), lambda z, x: 20 * (1000 * z).softmax(dim=1))
    found, scores = probed(j := job(names=("square100", "pgd5"), model=flat))
    rows = np.flatnonzero(scores.samples["broken_by"] == "square100")
    x, y = (v[rows] for v in j.images.batch(slice(None)))
    tried = [replace(attacks.get(name), name=f"probe/{name}") for name in ("margin20", "apgd20", "apgd-dlr20")]
    broken = Chain(name="all", stages=tried).run(flat, x, y, THREAT, ids=j.images.ids[rows]).broken
    assert not broken.all()
    assert list(found.blind) == ["square100"]
    assert list(found.blind["square100"].standing) == (~broken).tolist()


@pytest.mark.parametrize(
    ("names", "cascade", "blind"),
    [
        (["square20", "pgd5", "square30"], True, ["square20"]),
        (["square20", "square30", "pgd5"], True, ["square20", "square30"]),
        (["pgd5", "square20"], True, []),
        (["square20", "pgd5"], False, []),
    ],
)
def test_only_what_comes_before_any_gradient_is_blind(names: list[str], cascade: bool, blind: list[str]) -> None:
    found, _ = probed(job(n=10, names=names, cascade=cascade))
    assert list(found.blind) == blind


def test_the_journal_holds_it(tmp_path: Path) -> None:
    scores = score(job(), in_memory())
    expected = probe(job(), scores, Journal(tmp_path / "j", "x"))

    def never(logits: Tensor, x: Tensor) -> Tensor:
        raise AssertionError("the model was asked")

    assert probe(job(model=Wrapped(trained(), never)), scores, Journal(tmp_path / "j", "x")) == expected


def test_an_evaluation_killed_in_the_probe_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suites.Suite(name="probed", attacks=("pgd5",), cascade=True, probe=True, description="")
    monkeypatch.setitem(suites.SUITES, "probed", suite)
    labels: list[str] = []

    def killed(label: str, done: int, total: int, **fields: float | str) -> None:
        if label.endswith("probe") and done:
            raise KeyboardInterrupt

    def heard(label: str, done: int, total: int, **fields: float | str) -> None:
        if done < total:  # under way, not found finished
            labels.append(label.rpartition(" ")[2])

    def run(**settings: Any) -> Result:
        return eb.evaluate(
            Wrapped(trained(), lambda z, x: 20 * (1000 * z).softmax(1)), suite="probed", n=20, **settings
        )

    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path, progress=killed)
    resumed = run(out=tmp_path, progress=heard)
    assert set(labels) == {"probe"}
    assert resumed.record.warnings == run().record.warnings
    assert {"coarse-logits", "zero-gradients", "large-eps-not-zero"} == {w.name for w in resumed.record.warnings}
    pd.testing.assert_frame_equal(resumed.samples, run().samples)


def test_its_progress_rises_to_its_total() -> None:
    heard: list[tuple[str, int, int]] = []
    j = job(n=30, names=("square20",), batch_size=8)
    scores = score(j, in_memory())
    probe(replace(j, progress=lambda label, done, total, **_: heard.append((label, done, total))), scores, in_memory())
    correct, broken = int(scores.samples["clean"].sum()), int((scores.samples["broken_by"] == "square20").sum())
    done = [at for _, at, _ in heard]
    assert {label for label, _, _ in heard} == {"model probe"}
    assert {total for *_, total in heard} == {5 * correct + 3 * broken}
    assert done == sorted(done)
    assert done[-1] == 5 * correct + 3 * broken
    assert done.count(done[-1]) == 1


def test_its_cost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that nothing breaks takes every step, at two passes each; besides, each attack looks at start and end."""
    monkeypatch.setattr(probes, "IMAGES", 20)
    images = replace(first(30), labels=torch.zeros(30, dtype=torch.int64))
    stubborn = Wrapped(trained(), lambda z, x: 0.01 * z.tanh() + torch.eye(10)[0])
    found, _ = probed(job(model=stubborn, images=images))
    steps = 20 + (20 + 20) + 1 + 50
    assert found.plain.left == found.large.left == 20
    assert 2 * steps * 20 <= found.passes <= (2 * steps + 4 * 5) * 20


def test_without_correct_images_there_is_nothing_to_probe() -> None:
    images = first(20)
    wrong = Wrapped(trained(), lambda z, x: -z)
    found, scores = probed(job(model=wrong, images=images, names=("square20",)))
    assert not scores.samples["clean"].any()
    assert found.plain.standing == found.large.standing == found.blind["square20"].standing == ()
    assert found.passes == 0


def test_an_error_names_the_probe() -> None:
    calls: list[int] = []

    def fails_later(logits: Tensor, x: Tensor) -> Tensor:
        calls.append(1)
        return logits if len(calls) < 4 else logits * torch.nan

    with pytest.raises(AttackError, match=r"probe/margin20.*NaN"):
        probed(job(n=8, model=Wrapped(trained(), fails_later)))
