"""A submission is what comes out when it is run again: honest ones pass, edited ones fail, broken ones are refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from sample_bundles import SUITE, Files, claiming, edited, files_of, honest, make_run, rehashed, scored, tree, zipped
from small_models import ARCHITECTURE, trained

from ensemble_bench.attacks.blackbox.blackbox_set import read_blackbox_info
from ensemble_bench.errors import BundleError, DataError, InvalidValueError
from ensemble_bench.files import sha256_file
from ensemble_bench.models import checkpoint
from ensemble_bench.models.build import build
from ensemble_bench.records import read_record, write_record
from ensemble_bench.records.statistics import wilson
from ensemble_bench.submissions import bench, verification
from ensemble_bench.submissions.bundling import bundle, unclaimed
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.submissions.verification import verify


def with_weights(files: Files, change: Callable[[dict[str, torch.Tensor]], object]) -> Files:
    """The files with changed weights, saved as our checkpoints are."""
    data = files["model.safetensors"]
    tensors = load(data)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    change(tensors)
    return files | {"model.safetensors": save(tensors, metadata=metadata)}


def noisy(tensors: dict[str, torch.Tensor]) -> None:
    noise = torch.Generator().manual_seed(0)
    for value in tensors.values():
        if value.is_floating_point() and value.dim() > 1:
            value += 0.5 * value.std() * torch.randn(value.shape, generator=noise)


def architecture(**changes: Any) -> Callable[[Files], Files]:
    return lambda files: edited(files, "config.json", lambda values: values["architecture"].update(changes))


def test_an_honest_bundle_is_verified_by_records_of_our_own(tmp_path: Path) -> None:
    result = verify(honest(), work=tmp_path / "work")
    assert (result.status, result.reasons, result.name) == ("verified", (), "mine")
    (record,) = result.records
    (comparison,) = result.comparisons
    assert record.path is not None
    assert read_record(record.path) == record
    assert record.path.is_relative_to(tmp_path / "work")
    assert (record.model, record.suite, record.n) == ("mine/best", SUITE, 60)
    assert (record.clean, record.robust) == (comparison.claim.clean, comparison.claim.robust)
    told = result.verified()
    assert told.weights_hash == sha256_file(tmp_path / "work" / "bundle" / "model.safetensors")
    (verdict,) = told.verdicts
    assert told.on(record) == verdict
    assert (verdict.status, verdict.suite, verdict.n, verdict.images) == ("verified", SUITE, 60, 360)
    assert (verdict.differing, verdict.compared, verdict.allowed, verdict.apart) == (0, 60, 1, 0)
    assert verdict.precision == verdict.claimed_precision == comparison.claim.precision


def test_fewer_images_are_compared_as_a_draw_of_them(tmp_path: Path) -> None:
    result = verify(honest(), n=25, work=tmp_path / "work")
    assert result.status == "verified"
    assert [record.n for record in result.records] == [25]
    boast = zipped(claiming(files_of(honest()), robust=scored("robust", 59)), tmp_path / "boast.zip")
    assert verify(boast, n=25, work=tmp_path / "work").status == "not reproduced"


def test_an_interrupted_verification_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = verify(honest(), work=tmp_path / "work")
    from ensemble_bench.evaluation import runner

    monkeypatch.setattr(runner, "score", lambda *_: pytest.fail("it was evaluated again"))
    again = verify(honest(), work=tmp_path / "work")
    assert again.records == first.records


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: claiming(f, robust=scored("robust", 55)), r"of 60 images 20 have another verdict .* at most 1 may"),
        (lambda f: claiming(f, robust=scored("robust", 5)), r"robust accuracy is"),
        (lambda f: claiming(f, clean=scored("correct", 50), robust=scored("robust", 33)), r"have another verdict"),
        (lambda f: with_weights(f, noisy), r"model.safetensors was changed"),
        (
            lambda f: edited(rehashed(with_weights(f, noisy)), "claims.json", lambda v: v["claims"][0].update(
                weights_hash="sha256:" + "0" * 64)),
            "the claims are of other weights",
        ),
        (lambda f: rehashed(with_weights(f, noisy)), r"accuracy is"),
    ],
    ids=["inflated", "deflated", "clean inflated", "weights edited", "config rehashed", "all rehashed"],
)  # fmt: skip
def test_what_is_not_so_is_not_reproduced(spoil: Callable[[Files], Files], reason: str, tmp_path: Path) -> None:
    result = verify(zipped(spoil(files_of(honest())), tmp_path / "x.zip"), work=tmp_path / "work")
    assert result.status == "not reproduced"
    assert any(re.search(reason, told) for told in result.reasons), result.reasons


FIRST = "members.0.network.conv1.weight"
REFUSED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "another backbone": (architecture(backbone="vgg16_bn"), "model.safetensors: was saved with another architecture"),
    "unknown backbone": (architecture(backbone="os.system"), "unknown backbone 'os.system'"),
    "another width": (architecture(width=1.0), "saved with another architecture"),
    "more members than weights": (architecture(members=2), "saved with another architecture"),
    "more classes": (architecture(classes=100), "classes is 100, digits has 10"),
    "larger images": (architecture(image_shape=[1, 16, 16]), "takes images of"),
    "colour": (architecture(image_shape=[3, 8, 8], mean=[0, 0, 0], std=[1, 1, 1]), "takes images of"),
    "a huge model": (architecture(backbone="wrn", depth=100, width=64.0, members=16), "parameters, at most 250000000"),
    "a number as text": (architecture(width="wide"), "width is 'wide'"),
    "a key more": (architecture(code="import os"), "unknown keys code"),
    "a tensor less": (
        lambda f: rehashed(with_weights(f, lambda t: t.pop(FIRST))),
        "does not fit its architecture: lacks",
    ),
    "a tensor more": (
        lambda f: rehashed(with_weights(f, lambda t: t.update(extra=torch.zeros(3)))),
        "has an unexpected extra",
    ),
    "another shape": (
        lambda f: rehashed(with_weights(f, lambda t: t.update({FIRST: t[FIRST].flatten()}))),
        "does not fit its architecture",
    ),
    "half precision": (
        lambda f: rehashed(with_weights(f, lambda t: t.update({FIRST: t[FIRST].half()}))),
        "does not fit its architecture",
    ),
    "weights that overflow": (
        lambda f: rehashed(with_weights(f, lambda t: [v.fill_(3e38) for v in t.values() if v.is_floating_point()])),
        "NaN|finite",
    ),
    "other images": (
        lambda f: edited(f, "claims.json", lambda v: v["claims"][0].update(data_hash="sha256:" + "1" * 64)),
        "cannot be checked here",
    ),
    "more images than there are": (
        lambda f: edited(
            f,
            "claims.json",
            lambda v: v["claims"][0].update(
                n=361,
                clean={"correct": 0, "n": 361, "accuracy": 0.0, "ci_low": 0.0, "ci_high": wilson(0, 361)[1]},
                robust={"robust": 0, "n": 361, "accuracy": 0.0, "ci_low": 0.0, "ci_high": wilson(0, 361)[1]},
                outcomes=["w" * 361],
            ),
        ),
        "the test split of digits holds 360",
    ),
    "no bundle": (lambda _: {"model.pkl": b""}, "'model.pkl': not a file of a bundle"),
}


@pytest.mark.parametrize(("spoil", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_stays(
    spoil: Callable[[Files], Files], reason: str, tmp_path: Path
) -> None:
    path = zipped(spoil(files_of(honest())), tmp_path / "bad.zip")
    before = tree(tmp_path)
    result = verify(path, work=tmp_path / "work")
    (told,) = result.reasons
    assert result.status == "refused"
    assert re.search(reason, told), told
    assert str(tmp_path) not in told
    assert tree(tmp_path) == before


def test_a_backbone_that_such_images_break_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flops(*_: object) -> int:
        raise RuntimeError("output size is too small")

    monkeypatch.setattr(verification.cost, "flops", flops)
    (reason,) = verify(honest(), work=tmp_path / "work").reasons
    assert reason == "config.json: small_cnn does not take such images: output size is too small"


def test_limits_hold_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "load", lambda *_: pytest.fail("it was loaded"))
    for name, most in (("max_parameters", 3000), ("max_classes", 9), ("max_bytes", 1000), ("max_steps", 9)):
        result = verify(honest(), limits=Limits(**{name: most}), work=tmp_path / "work")
        assert (result.status, len(result.reasons)) == ("refused", 1)
        assert str(most) in result.reasons[0] or name == "max_classes"


def test_one_suite_can_be_chosen_of_those_that_are_claimed(tmp_path: Path) -> None:
    result = verify(honest(), suite="quick", work=tmp_path / "work")
    assert (result.status, result.reasons) == ("refused", (f"nothing is claimed of suite quick, only of {SUITE}",))
    assert verify(honest(), suite=SUITE, n=20, work=tmp_path / "work").status == "verified"
    with pytest.raises(InvalidValueError, match="unknown suite"):
        verify(honest(), suite="no such", work=tmp_path / "work")
    with pytest.raises(InvalidValueError, match="n is 0"):
        verify(honest(), n=0, work=tmp_path / "work")


def test_missing_data_are_not_the_bundles_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise DataError("no images here")

    monkeypatch.setattr("ensemble_bench.data.open_source", missing)
    with pytest.raises(DataError):
        verify(honest(), work=tmp_path / "work")


def test_a_folder_of_other_things_is_no_place_to_work(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(InvalidValueError, match="holds models, give it a folder of its own"):
        verify(honest(), work=tmp_path)
    assert set(tree(tmp_path)) >= {"bundle", "models"}
    assert tree(tmp_path) == before


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "work" / ".bundle.12345678.tmp"
    stale.mkdir(parents=True)
    (stale / "config.json").write_text("{")
    verify(honest(), n=10, work=tmp_path / "work")
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["bundle", "evaluated"]


def test_the_bundle_itself_is_never_unpacked_over(tmp_path: Path) -> None:
    verify(honest(), n=10, work=tmp_path / "work")
    before = tree(tmp_path)
    with pytest.raises(InvalidValueError, match="work is"):
        verify(tmp_path / "work" / "bundle", work=tmp_path / "work")
    assert tree(tmp_path) == before


def test_a_stranger_does_not_choose_how_large_our_surrogates_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []

    def build_set(dataset: str, *, preset: str, out: Path, **_: object) -> Path:
        asked.append((preset, out))
        raise BundleError("stop here")

    monkeypatch.setattr(bench.blackbox, "build", build_set)
    files = edited(files_of(honest()), "claims.json", lambda v: v["claims"][0].update(suite="blackbox"))
    files = edited(files, "config.json", lambda v: v["meta"].update(preset="paper"))
    result = verify(zipped(files, tmp_path / "x.zip"), work=tmp_path / "work", runs=tmp_path / "runs")
    assert result.reasons == ("stop here",)
    assert asked == [("tiny", tmp_path / "runs" / "blackbox" / "digits-tiny-linf32of255-s0.safetensors")]


def test_suites_with_a_blackbox_set_use_ours(tmp_path: Path) -> None:
    from small_models import blackbox_set

    ours = blackbox_set()
    target = tmp_path / "runs" / "blackbox" / "digits-tiny-linf32of255-s0.safetensors"
    target.parent.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        target.with_suffix(suffix).write_bytes(ours.with_suffix(suffix).read_bytes())
    files = edited(files_of(honest()), "claims.json", lambda v: v["claims"][0].update(suite="ifgsm5+blackbox"))
    result = verify(zipped(files, tmp_path / "x.zip"), work=tmp_path / "work", runs=tmp_path / "runs")
    (record,) = result.records
    assert record.blackbox is not None
    assert record.blackbox.hash == read_blackbox_info(target)["hash"]


def test_ensembles_and_their_last_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "pair"
    run.mkdir(parents=True)
    meta = {"dataset": "digits", "checkpoint": "last", "threat": {"norm": "linf", "eps": 0.1}}
    pair = replace(ARCHITECTURE, members=2)
    checkpoint.save(run / "last.safetensors", build(pair, seed=0), pair, meta)
    from ensemble_bench.evaluation.runner import evaluate_checkpoints

    evaluate_checkpoints([run / "last.safetensors"], suite="ifgsm5", n=30)
    path = bundle(run, checkpoint_name="last", out=tmp_path / "pair")
    result = verify(path, work=tmp_path / "work")
    assert result.status == "verified"
    assert result.records[0].model == "pair/last"
    assert result.records[0].forward_passes == 2


def test_bundling_says_what_is_missing_and_overwrites_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare", suites=())
    with pytest.raises(BundleError, match="no record that backs a claim: `ensemble-bench evaluate"):
        bundle(run, out=tmp_path / "x.zip")
    run = make_run(tmp_path / "mine")
    (tmp_path / "x.zip").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(BundleError, match="exists already"):
        bundle(run, out=tmp_path / "x.zip")
    with pytest.raises(BundleError, match="holds '<'"):
        bundle(run, out=tmp_path / "y.zip", authors="<b>me</b>")
    with pytest.raises(InvalidValueError, match="name is"):
        bundle(run, out=tmp_path / "y.zip", name="my model")
    with pytest.raises(InvalidValueError, match="name is ''"):
        bundle(run, out=tmp_path / "y.zip", name="")
    for best in (run / "best.safetensors", checkpoint.load(run / "best.safetensors")):
        with pytest.raises(InvalidValueError, match=r"checkpoint is 'last', but .*best.safetensors is another"):
            bundle(best, checkpoint_name="last", out=tmp_path / "y.zip")
    with pytest.raises(BundleError, match="link is"):
        bundle(run, out=tmp_path / "folder", link="ftp://x")
    assert tree(tmp_path) == before


def test_bundles_claim_what_can_be_repeated(tmp_path: Path) -> None:
    """Whole models, at the eps of the training, by attacks with names: not views, other radii or toolkits' attacks."""
    from ensemble_bench.evaluation.runner import evaluate_checkpoints

    run = make_run(tmp_path / "mine", trained())
    evaluate_checkpoints([run], suite="ifgsm5", n=20, eps=[16 / 255, 32 / 255])
    evaluate_checkpoints([run], suite="pgd5", n=20, split="validation")
    (record,) = evaluate_checkpoints([run], suite="ifgsm7", n=10)
    assert record.path is not None
    write_record(replace(record, suite="autoattack"), record.path.parent)
    path = bundle(run, out=tmp_path / "mine.zip", authors="A. Uthor", link="https://example.org/a", venue="ICML 2031")
    again = bundle(run, out=tmp_path / "again.zip", authors="A. Uthor", link="https://example.org/a", venue="ICML 2031")
    assert path.read_bytes() == again.read_bytes()
    files = files_of(path)
    assert [(c["suite"], c["n"]) for c in json.loads(files["claims.json"])["claims"]] == [
        ("autoattack", 10),
        (SUITE, 60),
    ]
    left = [(record.suite, record.split, record.threat.eps_text) for record in unclaimed(run)]
    assert sorted(left) == [
        ("ifgsm5", "test", "16/255"),
        ("ifgsm5", "test", "32/255"),
        ("pgd5", "validation", "32/255"),
    ]
    entry = json.loads(files["model_info.json"])
    assert (entry["authors"], entry["venue"], entry["eps"]) == ("A. Uthor", "ICML 2031", "32/255")
    assert float(entry["autoattack_acc"]) == pytest.approx(
        100 * json.loads(files["claims.json"])["claims"][0]["robust"]["accuracy"], abs=0.01
    )
    card = files["README.md"].decode()
    assert "A. Uthor, ICML 2031, https://example.org/a" in card
    for suite in ("autoattack", SUITE):
        assert f"| {suite} |" in card
    assert "autoattack_acc" not in json.loads(files_of(honest())["model_info.json"])
    assert "Not run against AutoAttack" in json.loads(files_of(honest())["model_info.json"])["footnote"]
