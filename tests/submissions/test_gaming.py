"""Submissions that try to win by a trick: each ends unranked, flagged or refused; honest ones keep rank and mark."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sample_bundles import META, SUITE, Files, N, edited, files_of, honest, rehashed, scored, zipped
from scipy.stats import binom
from small_models import ARCHITECTURE, Wrapped, trained
from torch import Tensor, nn

from ensemble_bench import data
from ensemble_bench.errors import AttackError, BundleError, DataError
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.leaderboard.rules import Rules, write_rules
from ensemble_bench.leaderboard.site.models import Model, read_models
from ensemble_bench.leaderboard.verified import read_verified
from ensemble_bench.models import checkpoint
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.submissions import audit
from ensemble_bench.submissions.audit import LEVEL, Fit, are_same, fit, fit_of
from ensemble_bench.submissions.bundling import bundle
from ensemble_bench.submissions.publishing import check_free, publish
from ensemble_bench.submissions.submit import submit
from ensemble_bench.submissions.verification import Verification, verify

# These tests run in trees with changes too; test_ranking.py has those whose tree was not clean.
RULES = Rules(suite="ifgsm5+probe", n=60, operator="us", clean=False)
CPU = torch.device("cpu")
LAST = "members.0.network"


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard with rules, on which an honest model is published."""
    root = tmp_path_factory.mktemp("boards")
    write_rules(RULES, root)
    assert submit(honest(), str(root)) == "verified"
    return root


def model_of(root: Path, name: str) -> Model:
    return next(model for model in read_models(root) if model.name == name)


def renamed(files: Files, name: str = "copy") -> Files:
    """The bundle under another name."""
    return edited(files, "claims.json", lambda values: values.update(name=name))


def with_tensors(files: Files, change: Callable[[dict[str, Tensor]], object]) -> Files:
    """The bundle with changed weights, and every hash of them told as it is."""
    content = files["model.safetensors"]
    tensors = load(content)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    change(tensors)
    return rehashed(files | {"model.safetensors": save(tensors, metadata=metadata)})


def verified(files: Files, root: Path, folder: Path) -> Verification:
    return verify(zipped(files, folder / "x.zip"), work=folder / "work", root=root)


def head(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the last layer."""
    *_, weight = (name for name, value in tensors.items() if name.startswith(LAST) and value.dim() == 2)
    return tensors[weight], tensors[weight.replace("weight", "bias")]


def flip_a_bit(tensors: dict[str, Tensor]) -> None:
    weight, _ = head(tensors)
    weight.view(torch.int32).flatten()[0] ^= 1


def scale(tensors: dict[str, Tensor]) -> None:
    for tensor in head(tensors):
        tensor.mul_(1000.0)


def shift(tensors: dict[str, Tensor]) -> None:
    head(tensors)[1].add_(7.0)


def swap_labels(tensors: dict[str, Tensor]) -> None:
    for tensor in head(tensors):
        tensor.copy_(tensor.roll(1, 0))


def poison(tensors: dict[str, Tensor]) -> None:
    head(tensors)[1][3] = float("nan")


def test_an_honest_model_is_ranked_by_the_operators_evaluation_and_marked(boards: Path) -> None:
    model = model_of(boards, "mine")
    assert (model.standing.rank, model.standing.reasons) == (1, ())
    record, verdict = model.record, model.standing.verdict
    assert (record.suite, record.n, record.seed) == (RULES.suite, 60, 0)
    assert verdict is not None
    assert (verdict.status, verdict.by, verdict.differing) == ("verified", "us", None)  # nobody claimed this one
    claimed = next(
        standing for record, standing in zip(model.records, model.standings, strict=True) if standing.rank is None
    )
    assert claimed.verdict is not None
    assert (claimed.verdict.differing, claimed.verdict.compared) == (0, 60)
    (row,) = (row for row in csv.DictReader(next(boards.rglob("leaderboard.csv")).open()) if row["rank"])
    assert (row["rank"], row["model"], row["unranked"]) == ("1", "mine/best", "")


def test_the_same_weights_under_another_name_are_refused_before_they_are_attacked(boards: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="these weights are published as 'mine'"):
        submit(zipped(renamed(files_of(honest())), tmp_path / "copy.zip"), str(boards))
    check_free("mine/best", model_of(boards, "mine").record.weights_hash, boards)  # as itself it may come again


@pytest.mark.parametrize("stem", ["last", "averaged"])
def test_the_same_weights_as_another_checkpoint_are_refused_before_they_are_attacked(
    boards: Path, tmp_path: Path, stem: str
) -> None:
    """Which checkpoint it is the submitter says: each would have rows and a rank of its own."""
    files = edited(files_of(honest()), "config.json", lambda config: config["meta"].update(checkpoint=stem))
    with pytest.raises(BundleError, match=f"these weights are published as mine/best, not {stem}"):
        submit(zipped(files, tmp_path / "again.zip"), str(boards))


@pytest.mark.parametrize("change", [flip_a_bit, scale, shift], ids=["one bit", "scaled logits", "shifted logits"])
def test_weights_that_answer_alike_under_another_name_are_refused(
    change: Callable[[dict[str, Tensor]], None], boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble_bench.submissions.verification._repeat", lambda *_: pytest.fail("it was attacked"))
    result = verified(renamed(with_tensors(files_of(honest()), change)), boards, tmp_path)
    assert result.status == "refused"
    assert result.reasons == ("it answers as 'mine' does, which is published: a model is published once",)


def test_honest_models_of_one_kind_do_not_answer_alike() -> None:
    x, _ = data.open_source("digits").split("test").batch(slice(audit.PROBES))
    kinds = [{}, {"seed": 1}, {"members": 2}, {"members": 3}, {"seed": 1, "eps": 0.01}, {"eps": 0.0}]
    answers = [audit.logits_of(trained(**kind), x, CPU) for kind in kinds]  # type: ignore[arg-type]
    for place, one in enumerate(answers):
        assert are_same(one, 3 * one + 2)
        assert not are_same(one, -one)
        assert not any(are_same(one, other) for other in answers[:place])


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (swap_labels, "not reproduced", "have another verdict than was claimed"),
        (poison, "refused", "NaN, infinite or missing weights"),
    ],
    ids=["swapped labels", "NaN"],
)
def test_weights_that_are_spoilt_are_not_published(
    change: Callable[[dict[str, Tensor]], None], status: str, reason: str, boards: Path, tmp_path: Path
) -> None:
    result = verified(renamed(with_tensors(files_of(honest()), change)), boards, tmp_path)
    assert result.status == status
    assert reason in result.reasons[0]


@pytest.mark.parametrize("key", ["quantise", "noise", "batch_statistics", "forward"])
def test_a_bundle_holds_no_code_that_answers_otherwise(key: str, boards: Path, tmp_path: Path) -> None:
    """Noise, rounded inputs, statistics of the batch: what no architecture here has, no bundle can ask for."""
    files = edited(files_of(honest()), "config.json", lambda config: config["architecture"].update({key: 0.03}))
    result = verified(renamed(files), boards, tmp_path)
    assert (result.status, result.records) == ("refused", ())
    assert f"unknown keys {key}" in result.reasons[0]


def test_a_nan_on_one_validation_image_ends_in_one_line(
    boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no claim has asked it: the operator's own look at the splits finds it."""
    source = data.open_source("digits")
    odd = source.split("validation").batch(slice(7, 8))[0]

    def spoilt(z: Tensor, x: Tensor) -> Tensor:
        return z.masked_fill((x == odd).flatten(1).all(1)[:, None], float("nan"))

    with pytest.raises(AttackError, match="NaN or infinite logits"):
        fit_of(Wrapped(trained(), spoilt), source, CPU)
    fit_of_it = audit.fit_of
    monkeypatch.setattr(audit, "fit_of", lambda model, *about: fit_of_it(Wrapped(model, spoilt), *about))
    result = verify(honest(), work=tmp_path / "work", root=boards)
    assert (result.status, result.records) == ("refused", ())
    assert result.reasons == ("the model gave NaN or infinite logits: no verdict can rest on them",)


def test_a_claim_of_the_right_number_on_the_wrong_images_is_not_reproduced(boards: Path, tmp_path: Path) -> None:
    def turn_around(values: dict[str, list[dict[str, list[str]]]]) -> None:
        (claim,) = values["claims"]
        (letters,) = claim["outcomes"]
        claim["outcomes"] = [letters[::-1]]

    result = verified(edited(files_of(honest()), "claims.json", turn_around), boards, tmp_path)
    assert result.status == "not reproduced"


def test_a_claim_sets_no_image_apart_by_a_black_box_set_that_its_suite_has_not(boards: Path, tmp_path: Path) -> None:
    """All images but the first would be left out of the comparison, and all numbers free."""

    def claim_all(values: dict[str, Any]) -> None:
        (claim,) = values["claims"]
        claim |= {"blackbox": f"sha256:{'0' * 64}", "outcomes": ["s" + "b" * (N - 1)]}
        claim |= {"clean": scored("correct", N), "robust": scored("robust", 1)}

    result = verified(edited(files_of(honest()), "claims.json", claim_all), boards, tmp_path)
    assert result.status == "refused"
    assert f"suite {SUITE} has none" in result.reasons[0]


def test_claims_of_a_trivial_suite_on_one_image_by_a_lucky_seed_rank_nothing(boards: Path, tmp_path: Path) -> None:
    """They hold, and are published as what they are; the rank is that of the operator's own evaluation."""
    run = tmp_path / "lucky"
    run.mkdir()
    checkpoint.save(run / "best.safetensors", trained(seed=1), ARCHITECTURE, META)
    evaluate_checkpoints([run], suite="ifgsm1", n=1, seed=5, precision="float32")
    root = tmp_path / "boards"
    write_rules(RULES, root)
    assert submit(bundle(run, out=tmp_path / "lucky.zip"), str(root)) == "verified"
    model = model_of(root, "lucky")
    assert (model.record.suite, model.record.n, model.standing.rank) == (RULES.suite, 60, 1)
    places = zip(model.records, model.standings, strict=True)
    reasons = next("; ".join(standing.reasons) for record, standing in places if record.n == 1)
    for reason in ("suite ifgsm1: the board ranks by", "1 images: the board ranks on 60", "attack seed 5"):
        assert reason in reasons


def submitted(name: str, model: Ensemble, folder: Path, architecture: Architecture = ARCHITECTURE) -> Model:
    """A model with a true claim of a trivial suite, submitted to a board of its own."""
    run, root = folder / name, folder / "boards"
    run.mkdir()
    checkpoint.save(run / "best.safetensors", model, architecture, META)
    evaluate_checkpoints([run], suite="ifgsm1", n=20, precision="float32")
    write_rules(RULES, root)
    assert submit(bundle(run, out=folder / f"{name}.zip"), str(root)) == "verified"
    return model_of(root, name)


def test_a_gradient_that_is_killed_by_scale_wins_nothing(tmp_path: Path) -> None:
    """Logits a thousand times as large: the attack that loses its gradient says so, or finds what it finds without."""
    plainly = submitted("plain", trained(seed=1), tmp_path)
    model = trained(seed=1)
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(1000.0)
    (tmp_path / "scaled").mkdir()
    found = submitted("scaled", model, tmp_path / "scaled")
    contested = any("contested by zero-gradients" in reason for reason in found.standing.reasons)
    assert contested or found.record.robust.robust <= plainly.record.robust.robust + RULES.allowed(60)
    assert not contested or found.standing.rank is None


def test_what_a_submitter_says_of_training_decides_nothing(boards: Path, tmp_path: Path) -> None:
    """Another preset, recipe and seeds: the same verdict, on the same records but for what they say."""
    files = edited(
        files_of(honest()),
        "config.json",
        lambda config: config["meta"].update(preset="paper", recipe="ensemble4adv", seeds=[1, 2, 3]),
    )
    said = verified(files, boards, tmp_path)
    assert said.status == "verified"
    plainly = verify(honest(), work=tmp_path / "plainly", root=boards)
    assert [r.robust for r in said.records] == [r.robust for r in plainly.records]


@pytest.mark.parametrize(("text", "says"), [('{"suite": "quick"}', "no probe"), ('{"n": 361}', "digits holds 360")])
def test_rules_that_cannot_be_followed_are_not_the_bundles_fault(text: str, says: str, tmp_path: Path) -> None:
    root = tmp_path / "boards"
    root.mkdir()
    (root / "board.json").write_text(text)
    with pytest.raises(DataError, match=f"board.json: .*{says}"):
        verify(honest(), work=tmp_path / "work", root=root)


class Memory(nn.Module):
    """Knows the classes of the test images by heart, and answers 0 to any other image."""

    def __init__(self) -> None:
        super().__init__()
        x, y = data.open_source("digits").split("test").batch(slice(None))
        self.known = {image.numpy().tobytes(): int(label) for image, label in zip(x, y, strict=True)}

    def forward(self, x: Tensor) -> Tensor:
        classes = torch.tensor([self.known.get(image.numpy().tobytes(), 0) for image in x])
        return nn.functional.one_hot(classes, 10).float()


def test_a_model_that_learnt_the_test_images_is_flagged_and_unranked(boards: Path, tmp_path: Path) -> None:
    source = data.open_source("digits")
    learnt = fit_of(Memory(), source, CPU)
    assert learnt.test == (360, 360)
    (flag,) = learnt.flags
    assert (flag.name, "right on 360 of 360 test images" in flag.message) == ("fits-test-images", True)
    for honest_one in (trained(), trained(seed=1), trained(members=2), trained(eps=0.0)):
        assert not fit_of(honest_one, source, CPU).flags
    result = verify(honest(), work=tmp_path / "work", root=boards)
    board = publish(replace(result, flags=learnt.flags), tmp_path / "work" / "bundle", tmp_path / "boards")
    told = read_verified(board / "verified" / "mine.json")
    assert told is not None
    assert told.flags == learnt.flags
    write_rules(RULES, tmp_path / "boards")
    model = model_of(tmp_path / "boards", "mine")
    reasons = [
        s.reasons for record, s in zip(model.records, model.standings, strict=True) if record.suite == RULES.suite
    ]
    assert reasons == [(f"contested by {flag.name}: {flag.message}",)]
    assert model.standing.rank is None


def flagged(p_test: float, p_validation: float, n: int, m: int) -> float:
    """Chance, computed exactly, that a model right so often on either split is flagged."""
    known = np.arange(m + 1)
    total = 0.0
    for k, weight in zip(known, binom.pmf(known, m, p_validation), strict=True):
        if weight < 1e-12:
            continue
        low, high = 0, n + 1  # the fewest right test images that are flagged
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if middle <= n and fit((middle, n), (int(k), m)).flags else (middle + 1, high)
        total += float(weight) * float(binom.sf(low - 1, n, p_test))
    return total


@pytest.mark.parametrize("p", [0.5, 0.85, 0.95])
def test_an_honest_model_is_hardly_ever_flagged(p: float) -> None:
    assert flagged(p, p, 360, 144) < LEVEL


def test_power_of_the_flag() -> None:
    """As docs/submitting.md says."""
    split = 10_000, 5_000
    assert 0.90 < flagged(0.88, 0.85, *split) < 0.93
    assert flagged(0.89, 0.85, *split) == pytest.approx(0.999, abs=5e-4)
    assert flagged(0.86, 0.85, *split) < 0.1
    for known, found in ((0.85, 0.9999), (0.90, 0.980), (0.95, 0.432)):
        assert flagged(1.0, known, 360, 144) == pytest.approx(found, abs=0.005)


def test_the_p_value_is_fishers() -> None:
    from scipy.stats import fisher_exact

    for test, validation in (((90, 100), (40, 50)), ((50, 50), (3, 9)), ((0, 5), (0, 5))):
        (a, n), (b, m) = test, validation
        expected = fisher_exact([[a, n - a], [b, m - b]], alternative="greater").pvalue
        assert fit(test, validation) == Fit(test=test, validation=validation, p_value=pytest.approx(expected))
