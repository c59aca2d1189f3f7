"""Every attack alone on a sample: what it finds is what the attacks find, and what a cascade missed comes to light."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import trained
from torch import nn

import ensemble_bench as eb
from ensemble_bench import ThreatModel, attacks, data
from ensemble_bench.attacks.engine import Attack, Budget, Outcome, Task
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.runner import Result
from ensemble_bench.evaluation.scoring import Scores, score
from ensemble_bench.evaluation.trust.recapture import recapture
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.folded import twin_of
from ensemble_bench.records import CARRIED
from ensemble_bench.records.recapture import Recapture

THREAT = ThreatModel(eps=0.1)
N = 120


def job(*names: str, **changes: Any) -> Job:
    plain = Job(
        label="model",
        model=trained(),
        images=data.open_source("digits").split("test").first(N),
        threat=THREAT,
        attacks=[attacks.get(name) for name in names],
        cascade=True,
        budget=Budget(batch_size=64),
    )
    return replace(plain, **changes)


def found_by(j: Job, members: tuple[str, ...] = ()) -> tuple[Recapture, Scores]:
    scores = score(j, Journal(None, "x"))
    found = recapture(j, scores, Journal(None, "x"), members=members)
    assert found is not None
    return found, scores


@dataclass(frozen=True, kw_only=True)
class Breaks(Attack):
    """Breaks the images of these ids, and no other."""

    ids: tuple[int, ...]

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "ids": list(self.ids)}

    def search(self, task: Task) -> Outcome:
        assert task.ids is not None
        broken = torch.isin(task.ids, torch.tensor(self.ids))
        margin = torch.where(broken, 1.0, -1.0)
        return Outcome(x_adv=task.x, broken=broken, steps=broken.long(), margin=margin, passes=len(task.ids))


def test_what_a_triage_left_out_comes_to_light() -> None:
    """The second attack meets the first image that stands, which it cannot break, and so none of the others."""
    correct = score(job(), Journal(None, "x")).samples.query("clean")["id"].tolist()
    easy, first, others = correct[:30], correct[30], correct[31:]
    weak = Breaks(name="weak", ids=tuple(easy))
    strong = Breaks(name="strong", ids=(*easy[:10], *others))
    j = job(attacks=[weak, strong], one_in={"strong": N})
    found, scores = found_by(j)
    assert set(scores.samples.loc[scores.samples["broken_by"] == "weak", "id"]) == set(easy)
    stand = len(correct) - len(easy)
    assert (found.survivors, found.broken) == (math.ceil(stand / 10), 3)
    # All but perhaps the one image that nothing breaks; and none of those that fell was missed by the weak attack.
    assert found.fell >= found.survivors - 1
    assert {alone.name: alone.broken for alone in found.alone}["weak"] == 3
    assert found.low <= found.hidden <= found.high <= stand
    assert found.hidden >= stand * (found.survivors - 1) / found.survivors
    thorough, scores = found_by(replace(j, one_in={}))
    assert scores.samples["broken_by"].notna().sum() == len(correct) - 1
    assert (thorough.survivors, thorough.fell, thorough.low) == (1, 0, 0.0)
    assert first in scores.samples.loc[scores.samples["broken_by"].isna(), "id"].to_numpy()


@pytest.mark.parametrize("folded", [True, False])
def test_members_attack_is_shown_beside_the_same_loss_on_the_output(folded: bool) -> None:
    torch.manual_seed(0)
    member = trained()
    ensemble = Ensemble([member, nn.Sequential(member)])
    j = job("ifgsm1", "mean-member20", model=ensemble)
    twin = twin_of(ensemble, j.images.batch(slice(8))[0]) if folded else None
    found, _ = found_by(replace(j, twin=twin), members=("mean-member20",))
    by_name = {alone.name: alone for alone in found.alone}
    assert by_name["ifgsm1"].whole is None
    # Two equal members answer as either does: the loss of one, of both, and of the output lead to the same images.
    assert by_name["mean-member20"].whole == by_name["mean-member20"].broken


def sampled(seed: int) -> tuple[list[int], int]:
    """Rows of the images that an attack meets alone which breaks every third image, and how many of these stand."""
    met: list[int] = []

    @dataclass(frozen=True, kw_only=True)
    class Heard(Breaks):
        def search(self, task: Task) -> Outcome:
            met.extend(task.ids.tolist())
            return super().search(task)

    j = job(budget=Budget(batch_size=64, seed=seed))
    ids = j.images.ids.tolist()
    j = replace(j, attacks=[Heard(name="heard", ids=tuple(ids[::3]))])
    scores = score(j, Journal(None, "x"))
    met.clear()
    recapture(j, scores, Journal(None, "x"), members=())
    stands = (scores.samples["clean"] & scores.samples["broken_by"].isna()).tolist()
    rows = [ids.index(i) for i in met]
    return rows, sum(stands[row] for row in rows)


def test_one_in_ten_is_drawn_by_the_seed_without_repetition() -> None:
    samples = [sampled(seed) for seed in range(6)]
    correct = score(job(), Journal(None, "x")).samples["clean"].to_numpy()
    stand, fell = int(correct.sum() - correct[::3].sum()), int(correct[::3].sum())
    for rows, standing in samples:
        assert rows == sorted(set(rows))
        assert correct[rows].all()
        assert (standing, len(rows) - standing) == (math.ceil(stand / 10), math.ceil(fell / 10))
    assert len({tuple(rows) for rows, _ in samples}) == 6
    assert sampled(0) == samples[0]


def test_progress_names_every_attack() -> None:
    heard: list[tuple[str, int, int, Any]] = []

    def on_progress(label: str, done: int, total: int, **fields: float | str) -> None:
        heard.append((label, done, total, fields.get("attack")))

    found_by(job("ifgsm1", "ifgsm2", progress=on_progress), members=("ifgsm2",))
    assert [line for line in heard if "recapture" in line[0]] == [
        *(("model recapture", done, 3, name) for done, name in enumerate(("ifgsm1", "ifgsm2", "ifgsm2 whole"))),
        ("model recapture", 3, 3, None),
    ]


@pytest.mark.parametrize("changes", [{"cascade": False}, {"attacks": []}])
def test_without_a_cascade_nothing_is_asked(changes: dict[str, Any]) -> None:
    j = job("ifgsm1", **changes)
    assert recapture(j, score(j, Journal(None, "x")), Journal(None, "x"), members=()) is None


def test_where_all_fell_at_a_smaller_eps_the_sample_is_empty() -> None:
    scores = score(job("ifgsm1"), Journal(None, "x"))
    scores.samples["broken_by"] = np.where(scores.samples["clean"], CARRIED, None)
    found = recapture(job("ifgsm1"), scores, Journal(None, "x"), members=())
    assert found is not None
    assert (found.survivors, found.broken, found.hidden, found.high) == (0, 0, 0.0, 0.0)


def test_an_evaluation_killed_in_it_goes_on(tmp_path: Path) -> None:
    """The record of an evaluation that was stopped between two attacks is that of one that was not."""

    def killed(label: str, done: int, total: int, **fields: float | str) -> None:
        if label.endswith("recapture") and done == 1:
            raise KeyboardInterrupt

    def run(out: Path, **settings: Any) -> Result:
        suite = "quick+recapture"
        return eb.evaluate(trained(), suite=suite, n=12, threat=THREAT, out=out, precision="float32", **settings)

    whole = run(tmp_path / "whole").record
    assert whole.recapture is not None
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", progress=killed)
    again = run(tmp_path / "killed").record
    assert again.recapture is not None
    assert replace(again.recapture, seconds=0.0) == replace(whole.recapture, seconds=0.0)
    assert again.id == whole.id
    assert again.id != eb.evaluate(trained(), suite="quick", n=12, threat=THREAT, precision="float32").record.id
