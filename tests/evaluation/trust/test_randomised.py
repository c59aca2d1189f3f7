"""Models that answer at random: judged by the share of draws that are right, attacked for as long as one is."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Linear, Wrapped, images, perceptron, searched, trained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.adapters import autoattack
from ensemble_bench.attacks.engine import Attack, Budget, Outcome, Task
from ensemble_bench.data import ImageSet
from ensemble_bench.errors import AttackError
from ensemble_bench.evaluation.diagnostics import diagnose
from ensemble_bench.evaluation.draws import Drawn, Shares
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.runner import Result
from ensemble_bench.evaluation.scoring import score
from ensemble_bench.leaderboard.board import leaderboard_csv
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.entry import enter
from ensemble_bench.models.folded import Twin
from ensemble_bench.models.randomised import DRAWS, EOT_DRAWS
from ensemble_bench.records import EXPECTED, EXPECTED_CLEAN, Record, find_records, withstood
from ensemble_bench.records.diagnosis import ENSEMBLE
from ensemble_bench.reports.comparison import compare

N = 24


def evaluated(model: nn.Module, suite: str = "ifgsm5", **settings: Any) -> Result:
    return eb.evaluate(model.eval(), dataset="digits", suite=suite, n=N, **settings)


@pytest.mark.parametrize("size", [1e-3, 0.03, 2.0])
@pytest.mark.parametrize("member", [False, True])
def test_noise_is_seen_however_small(size: float, member: bool) -> None:
    model: nn.Module = Wrapped(perceptron(0), lambda z, x: z + size * torch.randn_like(z))
    model = Ensemble([perceptron(1), model]) if member else model
    entered = enter(model.eval(), images(12)[0])
    assert (entered.randomised, entered.exact) == (True, False)


def coin(p: float) -> nn.Module:
    """Right on every image but for a share `p` of its draws, whatever the image: nothing can be attacked in it."""

    def change(z: Tensor, x: Tensor) -> Tensor:
        flip = torch.rand(len(z), 1) < p
        return torch.where(flip, -z, z)

    return Wrapped(perceptron(0), change)


@pytest.mark.parametrize("suite", ["ifgsm5", "sweep2", "square50"])
def test_a_coin_is_scored_by_its_odds_and_not_by_the_first_lucky_draw(suite: str) -> None:
    """At a tiny eps no attack changes anything: of images that the network gets right, 70 % of all draws are right."""
    x, y = images(N)
    right = (perceptron(0)(x).argmax(1) == y).sum().item()
    found = evaluated(coin(0.3), suite, threat=eb.ThreatModel(eps=1e-6))
    record = found.record
    assert record.randomised is not None
    # A draw is right with p = 0.7 on `right` images, and now and then on others: 6 standard deviations of all draws.
    slack = 6 * (0.7 * 0.3 / (100 * right)) ** 0.5
    assert abs(found.robust_accuracy - 0.7 * right / N) < slack + 0.3 * (N - right) / N
    # One number everywhere: the record's, the mean over the samples, that of the attack, and what the warning says.
    assert found.robust_accuracy == record.robust.accuracy == pytest.approx(found.samples[EXPECTED].mean())
    assert found.clean_accuracy == record.clean.accuracy == pytest.approx(found.samples[EXPECTED_CLEAN].mean())
    assert withstood(found.samples).mean() == pytest.approx(record.robust.accuracy)
    assert record.attacks[-1].accuracy == pytest.approx(record.robust.accuracy)
    assert record.robust.ci_low <= record.robust.accuracy <= record.robust.ci_high
    assert [warning.name for warning in found.warnings] == ["randomised"]
    said = f"attacked {N * record.robust.accuracy:.1f} of {N} images ({100 * record.robust.accuracy:.4g} %"
    assert said in found.warnings[0].message
    # Most draws are right on all that the network gets right: none of these counts as broken.
    assert record.robust.robust == record.clean.correct == right
    assert Record.from_dict(record.as_dict()) == record


def test_an_ensemble_that_draws_is_worth_the_members_that_are_right() -> None:
    """Two members of opposite answers: half of all draws are right on every image, though votes tie."""
    network = perceptron(0)
    x, y = images(N)
    right = (network(x).argmax(1) == y).float().mean().item()
    model = Ensemble([network, Wrapped(network, lambda z, x: -z)], aggregation="draw").eval()
    entered = enter(model, x)
    assert (entered.randomised, entered.exact) == (True, True)
    found = evaluated(model, threat=eb.ThreatModel(eps=1e-6))
    assert found.record.randomised is not None
    assert found.record.randomised.draws is None
    assert found.robust_accuracy == pytest.approx(right / 2, abs=1e-4)
    assert Record.from_dict(found.record.as_dict()) == found.record


def test_attacks_on_noise_reach_what_they_do_without_it() -> None:
    """Noise that changes few answers hides none: expected accuracy under attack falls as that of the network does."""
    network = perceptron(0)
    noisy = evaluated(Wrapped(network, lambda z, x: z + 0.1 * torch.randn_like(z)), "margin10")
    plain = evaluated(network, "margin10")
    assert plain.record.randomised is None
    assert abs(noisy.robust_accuracy - plain.robust_accuracy) < 0.1


@dataclass(frozen=True, kw_only=True)
class Two(Attack):
    """Darkens the first two pixels."""

    def search(self, task: Task) -> Outcome:
        x_adv = task.x.clone()
        x_adv[..., 0, :2] -= task.threat.eps
        rows = torch.arange(len(task.y))
        return Outcome(x_adv=x_adv, broken=rows >= 0, steps=rows, margin=rows.float(), passes=len(rows))


@pytest.mark.parametrize("cascade", [True, False])
def test_an_image_is_attacked_for_as_long_as_a_draw_is_right(cascade: bool) -> None:
    """Each of three members sees one pixel: where two of them are fooled most draws are wrong, and a third is right."""
    members = []
    for pixel in range(3):
        weight = torch.zeros(2, 64)
        weight[0, pixel] = 1.0
        members.append(Linear(weight, torch.tensor([-0.5, 0.0])))
    model = Ensemble(members, aggregation="draw").eval()
    entered = enter(model, torch.rand(12, 1, 8, 8))
    job = Job(
        label="model",
        model=entered.judge,
        twin=Twin(model=entered.climbed),
        drawn=Drawn(model=model, other_judge=entered.judge, exact=entered.exact),
        images=ImageSet(
            name="grey",
            split="test",
            images=torch.full((4, 1, 8, 8), 140, dtype=torch.uint8),
            labels=torch.zeros(4, dtype=torch.int64),
            scale=255,
            ids=torch.arange(4),
            fingerprint="",
        ),
        threat=eb.ThreatModel(eps=0.2),
        attacks=[Two(name="two"), eb.attacks.get("ifgsm3", stop_early=False)],
        cascade=cascade,
        budget=Budget(),
    )
    scores = score(job, Journal(None, "x"))
    assert scores.shares is not None
    np.testing.assert_allclose(scores.expected["two"], 1 / 3, atol=1e-4)
    np.testing.assert_allclose(scores.shares.reported, 0, atol=1e-4)
    assert [stage.broken for stage in scores.stages["two"]] == [4]  # by majority
    assert [(s.attacked, s.broken) for s in scores.stages["ifgsm3"]] == [(4, 0 if cascade else 4)]


def test_arc_goes_on_until_no_member_is_right() -> None:
    model, (x, y) = trained(members=3).aggregate_as("vote"), images(12)
    threat = eb.ThreatModel(eps=0.3)
    found = {
        stops: searched(eb.attacks.get("arc20", stop_early=stops), model, x, y, threat).x_adv for stops in (True, False)
    }
    right = {
        stops: (model.member_logits(x_adv).argmax(2) == y).double().mean(0).detach() for stops, x_adv in found.items()
    }
    assert (right[False] <= right[True].clamp_min(1 / 3) + 1e-9).all()
    assert right[False].mean() < right[True].mean()


@pytest.mark.parametrize("aggregation", ["draw", "vote"])
def test_members_are_compared_also_where_one_is_drawn_or_all_vote(aggregation: str) -> None:
    model, (x, y) = trained(members=3).aggregate_as(aggregation), images(20)
    found = diagnose(model, dataset="digits", n=20, attack="margin5").findings
    accuracy = {finding.a: finding.value for finding in found if finding.quantity == "clean_accuracy"}
    robust = {finding.a: finding.value for finding in found if finding.quantity == "robust_accuracy"}
    right = (model.member_logits(x).argmax(2) == y).double()
    whole = right.mean() if aggregation == "draw" else (model(x).argmax(1) == y).double().mean()
    assert accuracy[ENSEMBLE] == pytest.approx(whole.item(), abs=1e-4)
    assert (robust[ENSEMBLE] or 0) <= (accuracy[ENSEMBLE] or 0)
    noise = Ensemble([perceptron(0), Wrapped(perceptron(1), lambda z, x: z + torch.randn_like(z))])
    with pytest.raises(AttackError, match="members that answer at random cannot be compared"):
        diagnose(noise, dataset="digits", n=8, attack="margin2")


def test_passes_of_draws_are_all_counted() -> None:
    """Every call of the model counts, those behind a mean for the gradient and those behind a verdict alike."""
    counts = {True: 0, False: 0}

    def noisy(z: Tensor, x: Tensor) -> Tensor:
        counts[torch.is_grad_enabled()] += len(z)
        return z + 0.5 * torch.randn_like(z)

    model, (x, y) = Wrapped(perceptron(0), noisy), images(6)
    entered = enter(model, x)
    attack = eb.attacks.get("margin3", stop_early=False)
    task = Task(
        model=entered.judge,
        x=x,
        y=y,
        threat=eb.ThreatModel(eps=0.1),
        ids=torch.arange(6),
        budget=Budget(),
        on_done=None,
        twin=entered.climbed,
    )
    counts |= {True: 0, False: 0}
    outcome = attack.search(task)
    assert outcome.passes == counts[False] + 2 * counts[True]
    assert counts[True] == EOT_DRAWS * 6 * 3
    assert counts[False] >= DRAWS * 6


def test_models_that_answer_at_random_are_compared_by_expected_accuracies(tmp_path: Path) -> None:
    """The table's numbers are those of the records, and no image counts as withstood by one of them alone."""
    threat = eb.ThreatModel(eps=0.05)
    results = [
        evaluated(model, "ifgsm5", threat=threat, out=tmp_path / name)
        for name, model in (("coin", coin(0.3)), ("plain", perceptron(0)))
    ]
    (pair,) = compare(find_records(tmp_path)).pairs
    assert pair.only is None
    assert pair.about == "weights"
    assert pair.contrast is not None
    drawn, plain = (result.record.robust for result in results)
    assert sorted(score.accuracy for score in pair.scores) == sorted((drawn.accuracy, plain.accuracy))
    assert pair.contrast.ci_low <= plain.accuracy - drawn.accuracy <= pair.contrast.ci_high
    (row,) = (r for r in csv.DictReader(io.StringIO(leaderboard_csv([results[0].record]))))
    assert row["robust_accuracy"] == f"{drawn.accuracy:.4f}"


def test_shares_that_are_reported_are_not_those_that_chose() -> None:
    shares = Shares.of([{"share_chosen": [0.9, 0.8], "share_reported": [0.7, 0.85]}])
    shares.lower([{"share_chosen": [0.4, float("nan")], "share_reported": [0.5, float("nan")]}])
    shares.lower([{"share_chosen": [0.45, 0.1], "share_reported": [0.1, 0.2]}])
    assert shares.clean.tolist() == [0.7, 0.85]
    assert shares.reported.tolist() == [0.5, 0.2]
    shares.take(Shares.of([{"share_chosen": [0.5, 0.0], "share_reported": [0.5, 0.0]}]))
    assert shares.reported.tolist() == [0.5, 0.0]
    assert shares.open.tolist() == [True, False]


def test_autoattack_runs_its_randomised_version() -> None:
    found = evaluated(coin(0.2), "autoattack", threat=eb.ThreatModel(eps=1e-6), device="cpu")
    assert [attack.name for attack in found.record.attacks] == ["apgd100", "apgd-dlr100"]


def test_pyautoattack_in_its_version_for_randomised_models(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyautoattack

    asked = []

    class Seen(pyautoattack.AutoAttack):  # type: ignore[misc, name-defined]
        def run_standard_evaluation(self, x: Tensor, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            asked.append(
                (tuple(self.attacks_to_run if hasattr(self, "attacks_to_run") else self.attacks), self.apgd.eot_iter)
            )
            return x, y

    monkeypatch.setattr(pyautoattack, "AutoAttack", Seen)
    x, y = images(4)
    for randomised in (False, True):
        autoattack.pyautoattack_standard(perceptron(0), x, y, eb.ThreatModel(eps=0.1), randomised=randomised)
    assert len(asked[0][0]) == 4
    assert asked[1] == (("apgd-ce", "apgd-dlr"), 20)
