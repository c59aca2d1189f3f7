"""Triage: an attack on the nearest survivors alone, whatever the batch size and however often it is killed."""

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Wrapped, odd_and_even, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel, attacks, evaluate
from ensemble_bench.attacks.engine import Attack, Budget, Outcome, Task
from ensemble_bench.data import ImageSet
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.estimate import bound_of_suite
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.runner import Result
from ensemble_bench.evaluation.scoring import score
from ensemble_bench.evaluation.triage import nearest_first
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.records import Record, worst_case
from ensemble_bench.registry import SUITES, Suite, suite_of

N, THREAT = 90, ThreatModel(eps=0.09)
FIRST, LATER = "ifgsm1", ("margin20", "apgd-t5")
ONE_IN = {"margin20": 12, "apgd-t5": 8}


@pytest.fixture(autouse=True)
def _suites(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, one_in in (("triaged", ONE_IN), ("whole", {})):
        suite = Suite(name=name, attacks=(FIRST, *LATER), cascade=True, one_in=one_in, description="")
        monkeypatch.setitem(SUITES, name, suite)  # type: ignore[arg-type]


def scored(suite: str = "triaged", **options: Any) -> Result:
    return evaluate(trained(), suite=suite, n=N, threat=THREAT, **options)


def attacked(result: Result, name: str) -> int:
    [attack] = [a for a in result.record.attacks if a.name == name]
    assert attack.stages is not None
    return attack.stages[0].attacked


def a_job(n: int) -> Job:
    model, digits = odd_and_even(n)
    return Job(label="", model=model, images=digits, threat=THREAT, attacks=(), cascade=True, budget=Budget())


def predictions(model: nn.Module, digits: ImageSet) -> Tensor:
    with torch.no_grad():
        return model(digits.batch(slice(None))[0]).argmax(dim=1)


@dataclass(frozen=True, kw_only=True)
class Breaks(Attack):
    """Breaks the images whose ids it is told, and writes down which it met, call by call."""

    ids: tuple[int, ...] = ()
    met: list[list[int]] = field(default_factory=list)

    def search(self, task: Task) -> Outcome:
        self.met.append(task.ids.tolist())
        broken = torch.isin(task.ids, torch.tensor(self.ids, dtype=torch.int64))
        # The nearer, the larger the id.
        return Outcome(x_adv=task.x, broken=broken, steps=torch.ones_like(task.y), margin=-1 / (1.0 + task.ids))


def met_by(one_in: int, *, breaks: tuple[int, ...] = (), images: int = 24, flat: bool = False) -> list[list[int]]:
    """Ids that an attack with `one_in` meets, call by call, after one that met all and ranked them by id.

    The gradient of a `flat` model is zero.
    """
    job = a_job(images)
    if flat:
        job = replace(job, model=Wrapped(job.model, lambda logits, x: logits.detach() + 0 * logits))
    ids = torch.arange(images)
    first, later = Breaks(name="first"), Breaks(name="later", ids=breaks)
    right = replace(job, images=replace(job.images, ids=ids, labels=predictions(job.model, job.images)))
    score(replace(right, attacks=[first, later], one_in={"later": one_in}), Journal(None, ""))
    assert list(chain(*first.met)) == ids.tolist()
    return later.met


def test_the_nearest_are_met_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 10)
    # Of ten, ten and four images, one in four and rounded up.
    assert met_by(4) == [[7, 8, 9], [17, 18, 19], [23]]
    assert met_by(1) == [list(range(10)), list(range(10, 20)), list(range(20, 24))]
    assert met_by(100) == [[9], [19], [23]]


def test_the_next_twice_as_many_are_met_while_some_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 10)
    first = [[7, 8, 9], [17, 18, 19], [23]]
    # Twice as many each time, or what is left.
    assert met_by(4, breaks=(8,)) == [*first, [1, 2, 3, 4, 5, 6]]
    assert met_by(4, breaks=(8, 4, 23)) == [*first, [1, 2, 3, 4, 5, 6], [21, 22], [0]]
    assert met_by(4, breaks=(6,)) == first  # it is not nearest, and none of those that are breaks
    everything = met_by(4, breaks=tuple(range(24)))
    assert sorted(chain(*everything)) == list(range(24))


def test_where_margins_tell_nothing_a_block_is_met_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 10)
    assert met_by(4, flat=True) == met_by(1) != met_by(4)


def test_of_equal_margins_the_first_is_nearer_and_what_no_attack_met_comes_last() -> None:
    standing, margin = np.array([0, 1, 1, 1, 1], dtype=bool), np.array([5, np.nan, -2, -1, -2], dtype=np.float32)
    assert nearest_first(slice(0, 5), standing, margin).tolist() == [3, 2, 4, 1]
    assert nearest_first(slice(2, 4), standing, margin).tolist() == [3, 2]


def test_what_an_attack_meets_it_treats_as_ever_and_the_rest_withstands_it() -> None:
    found, whole = scored(), scored("whole")
    samples = found.samples
    standing = samples[FIRST].to_numpy(dtype=bool)
    met = samples["margin20_steps"].to_numpy() > 0
    near = samples[f"{FIRST}_margin"].to_numpy()
    assert 0 < met.sum() < standing.sum()
    assert attacked(found, "margin20") >= met.sum()  # a random start may break without a step
    assert near[standing & met].min() >= near[standing & ~met].max()
    assert not met[~standing].any()
    assert (samples["margin20"].to_numpy() == whole.samples["margin20"].to_numpy())[met].all()
    assert samples["margin20"].to_numpy()[standing & ~met].all()
    assert not (worst_case(whole.samples) & ~worst_case(samples)).any()


def test_the_record_says_how_many_were_met() -> None:
    record = scored().record
    assert [a.settings.get("one_in") for a in record.attacks] == [None, 12, 8]
    assert [a.n for a in record.attacks] == [N] * 3
    assert record.attacks[0].stages is None
    assert Record.from_dict(record.as_dict()) == record
    assert record.id != scored("whole").record.id


@pytest.mark.parametrize("batch_size", [7, 300])
def test_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    """On a linear model, where no rounding tips a verdict or a rank."""
    monkeypatch.setattr(jobs, "BLOCK", 32)
    changed = {"attacks": [attacks.get(FIRST), attacks.get("margin20")], "one_in": {"margin20": 3}}
    changed["threat"] = ThreatModel(eps=0.06)
    base, other = (
        score(replace(a_job(N), budget=Budget(batch_size=b), **changed), Journal(None, "")) for b in (64, batch_size)
    )
    for column in base.samples:
        if not column.endswith("_margin"):
            assert other.samples[column].equals(base.samples[column])
    assert 0 < base.stages["margin20"][0].attacked < N / 3


def test_a_killed_evaluation_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 32)
    scored(out=tmp_path / "one")
    for kills in (4, 9, 15):
        calls = 0

        def killing(*_: object, kills: int = kills, **__: object) -> None:
            nonlocal calls
            calls += 1
            if calls == kills:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            scored(out=tmp_path / "other", progress=killing)
    scored(out=tmp_path / "other")
    one, other = ((tmp_path / name / "samples.parquet").read_bytes() for name in ("one", "other"))
    assert one == other


def test_the_bound_of_a_suite_counts_the_share() -> None:
    architecture = Architecture(
        backbone="small_cnn", width=0.5, classes=10, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,)
    )
    triaged, whole = (bound_of_suite(name, architecture, weighted=False) for name in ("triaged", "whole"))
    assert triaged < whole / 2


def test_a_sum_runs_an_attack_on_the_most_images_that_a_part_wants() -> None:
    assert suite_of("triaged+pgd5").one_in == ONE_IN
    assert suite_of("triaged+margin20").one_in == {"apgd-t5": 8}
    assert suite_of("triaged+whole").one_in == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"one_in": {"pgd5": 0}}, "one_in is 0 for 'pgd5': expected at least 1"),
        ({"one_in": {"pgd6": 2}}, "one_in is 2 for 'pgd6': expected at least 1, in a cascade of pgd5"),
        ({"one_in": {"pgd5": 2}, "cascade": False}, "in a cascade of pgd5"),
    ],
)
def test_bad_shares_are_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        Suite(**{"name": "bad", "attacks": ("pgd5",), "cascade": True, "description": "", **changed})
