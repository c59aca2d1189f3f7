"""Honest models of every kind keep rank and mark; noise, draws and rounding win nothing, from Python and submitted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_bundles import META, edited, files_of, zipped
from small_models import ARCHITECTURE, Wrapped, images, perceptron, trained
from torch import nn

import ensemble_bench as eb
from ensemble_bench.errors import AttackError
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.leaderboard.ranking import standings
from ensemble_bench.leaderboard.rules import Rules, write_rules
from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.leaderboard.site.models import Model, read_models
from ensemble_bench.leaderboard.verified import Verdict, Verified
from ensemble_bench.models import checkpoint
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import EXPECTED, Record, find_records, read_samples
from ensemble_bench.records.statistics import wilson
from ensemble_bench.submissions.bundling import bundle
from ensemble_bench.submissions.submit import submit
from ensemble_bench.submissions.verification import verify

RULES = Rules(suite="ifgsm5+probe", n=40, operator="us", clean=False)


def submitted(name: str, model: Ensemble, folder: Path, architecture: Architecture) -> Model:
    """A model with a true claim of a trivial suite, submitted to a board of its own."""
    run, root = folder / name, folder / "boards"
    run.mkdir()
    checkpoint.save(run / "best.safetensors", model, architecture, META)
    evaluate_checkpoints([run], suite="ifgsm1", n=20, precision="float32")
    write_rules(RULES, root)
    assert submit(bundle(run, out=folder / f"{name}.zip"), str(root)) == "verified"
    return next(found for found in read_models(root) if found.name == name)


# Honest ones


def keeps_rank_and_mark(model: Model) -> None:
    assert (model.standing.rank, model.standing.reasons) == (1, ())
    assert model.standing.verdict is not None
    assert (model.standing.verdict.status, model.record.suite) == ("verified", RULES.suite)


@pytest.mark.parametrize(
    "network",
    [{"backbone": "wrn", "depth": 10}, {"backbone": "preact_resnet18"}, {"backbone": "vgg16_bn"}],
    ids=lambda network: network["backbone"],
)
def test_honest_networks_of_every_backbone_keep_rank_and_mark(network: dict[str, Any], tmp_path: Path) -> None:
    architecture = replace(ARCHITECTURE, width=0.125, **network)
    model = build(architecture, seed=0)
    with torch.no_grad():  # batch norm knows the images' statistics: without, a deep network says the same of all
        for _ in range(30):
            model.train()(images(100)[0])
    keeps_rank_and_mark(submitted("net", model.eval(), tmp_path, architecture))


@pytest.mark.parametrize("aggregation", ["prob", "logit", "vote", "draw"])
def test_honest_ensembles_of_every_aggregation_keep_rank_and_mark(
    aggregation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = replace(ARCHITECTURE, members=3, aggregation=aggregation)
    found = submitted("three", trained(members=3).aggregate_as(aggregation), tmp_path, architecture)
    keeps_rank_and_mark(found)
    told = {warning.name for warning in found.record.warnings}
    assert told == ({"randomised"} if aggregation == "draw" else set())
    # From the zoo it is the very same model, and is let in as it was.
    monkeypatch.setenv("ENSEMBLE_BENCH_ZOO", str(tmp_path / "boards"))
    record = eb.evaluate(eb.load("zoo:three"), suite="ifgsm5", n=20, precision="float32").record
    assert record.weights_hash == found.record.weights_hash
    assert {warning.name for warning in record.warnings} == told


def test_an_honest_gated_ensemble_keeps_rank_and_mark(tmp_path: Path) -> None:
    architecture = replace(ARCHITECTURE, members=2, gated=True)
    model = build(architecture, seed=0)
    model.members.load_state_dict(trained(members=2).members.state_dict())
    keeps_rank_and_mark(submitted("gated", model.eval(), tmp_path, architecture))


# A draw


def test_a_draw_is_ranked_by_its_expected_accuracy_and_said_to_be_one(tmp_path: Path) -> None:
    """Neither a lucky draw nor a vote on each image: the mean over the members, as if none of them were preferred."""
    architecture = replace(ARCHITECTURE, members=2, aggregation="draw")
    robust, weak = trained(), trained(eps=0.0)
    model = Ensemble([*robust.members, *weak.members], aggregation="draw").eval()
    found = submitted("draw", model, tmp_path, architecture)
    record = found.record
    assert "randomised" in {warning.name for warning in record.warnings}
    assert record.path is not None
    assert record.robust.accuracy == pytest.approx(read_samples(record.path.parent)[EXPECTED].mean())
    x, y = images(40)
    right = [(member(x).argmax(1) == y).double().mean().item() for member in model.members]
    assert record.clean.accuracy == pytest.approx(sum(right) / 2, abs=1e-4)
    assert record.robust.accuracy < record.clean.accuracy
    page = (build_site(tmp_path / "boards", tmp_path / "site").parent / found.folder / "index.html").read_text()
    assert f"{100 * record.robust.accuracy:.1f}" in page
    assert "randomised" in page


def test_another_expected_accuracy_than_was_measured_is_not_reproduced(tmp_path: Path) -> None:
    architecture = replace(ARCHITECTURE, members=2, aggregation="draw")
    run = tmp_path / "draw"
    run.mkdir()
    checkpoint.save(run / "best.safetensors", trained(members=2).aggregate_as("draw"), architecture, META)
    evaluate_checkpoints([run], suite="ifgsm1", n=20, precision="float32")
    files = files_of(bundle(run, out=tmp_path / "draw.zip"))

    def boast(values: dict[str, Any]) -> None:
        score = values["claims"][0]["robust"]
        score.update(accuracy=1.0, ci_low=wilson(20, 20)[0], ci_high=1.0)

    result = verify(zipped(edited(files, "claims.json", boast), tmp_path / "x.zip"), work=tmp_path / "work")
    assert result.status == "not reproduced"
    assert "claimed was 1.0000" in result.reasons[0]


# From Python


def noisy(size: float) -> Callable[[nn.Module], nn.Module]:
    return lambda network: Wrapped(network, lambda z, x: z + size * torch.randn_like(z))


def quantised(network: nn.Module) -> nn.Module:
    """Shown inputs of four levels: no gradient gets through."""
    return Wrapped(network, lambda z, x: network((x * 4).round() / 4))


def batch_statistics(network: nn.Module) -> nn.Module:
    return Wrapped(network, lambda z, x: (z - z.mean(0)) / (z.std(0) + 1))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return by_the_rules(perceptron(0), tmp_path_factory.mktemp("plain"))


def by_the_rules(model: nn.Module, folder: Path) -> Record:
    """An evaluation from Python as a board's operator would make it, with a verdict beside it."""
    board = folder / "boards" / "digits" / "linf32of255"
    write_rules(RULES, folder / "boards")
    out = board / "records" / "it" / "evaluations" / "one"
    settings = {"suite": RULES.suite, "n": RULES.n, "precision": "float32", "device": "cpu"}
    record = eb.evaluate(model.eval(), dataset="digits", out=out, **settings).record
    verdict = Verdict(
        record=record.id,
        suite=record.suite,
        n=record.n,
        images=360,
        seed=0,
        precision="float32",
        status="verified",
        by="us",
        date="2026-01-01",
    )
    told = Verified(weights_hash=record.weights_hash, verdicts=(verdict,), flags=(), versions={})
    (board / "verified").mkdir()
    (board / "verified" / "it.json").write_text(json.dumps(told.as_dict()))
    return next(iter(find_records(board)))


@pytest.mark.parametrize("size", [0.001, 0.03])
def test_noise_on_the_logits_is_flagged_and_wins_nothing(size: float, plain: Record, tmp_path: Path) -> None:
    record = by_the_rules(noisy(size)(perceptron(0)), tmp_path)
    assert [warning.name for warning in record.warnings] == ["randomised"]
    assert record.robust.accuracy <= plain.robust.accuracy + RULES.allowed(40) / 40
    (standing,) = standings([record])
    assert standing.rank == 1  # by an expected accuracy, which no luck changes


def test_a_quantised_input_is_contested(tmp_path: Path) -> None:
    record = by_the_rules(quantised(perceptron(0)), tmp_path)
    (standing,) = standings([record])
    assert standing.rank is None
    assert any("contested by zero-gradients" in reason for reason in standing.reasons)


def test_batch_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AttackError, match="depends on the other images of its batch"):
        by_the_rules(batch_statistics(perceptron(0)), tmp_path)


def test_what_was_only_evaluated_by_its_maker_has_no_rank(tmp_path: Path) -> None:
    found = eb.evaluate(perceptron(0), dataset="digits", suite="ifgsm1", n=4, out=tmp_path / "one").record
    (standing,) = standings([found])
    assert standing.reasons == ("no operator of a board evaluated it",)
