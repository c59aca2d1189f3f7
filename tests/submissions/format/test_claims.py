"""Claims agree with a repetition image by image."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import make_record, write

from ensemble_bench.errors import BundleError, RecordError
from ensemble_bench.leaderboard.rules import Rules
from ensemble_bench.records import Blackbox, Record, read_record
from ensemble_bench.records.decoding import plain
from ensemble_bench.records.statistics import wilson
from ensemble_bench.submissions.format.claims import Agreement, Claim, Claims, agreement, can_claim, outcomes_of, parse
from ensemble_bench.submissions.format.limits import Limits

HASHES = {"one": "sha256:" + "1" * 64, "other": "sha256:" + "2" * 64}


def evaluated(folder: Path, letters: str, blackbox: str | None = None) -> Record:
    """A record whose images came to what these letters say."""
    attacks: dict[str, Sequence[bool]] = {"pgd5": [letter != "f" for letter in letters]}
    if blackbox is not None:
        attacks = {"blackbox": [letter != "b" for letter in letters], **attacks}
    record, samples = make_record([letter != "w" for letter in letters], attacks)
    if blackbox is not None:
        used = Blackbox(hash=HASHES[blackbox], keep_rate=1.0, surrogates=(), n=len(letters))
        record = replace(record, blackbox=used)
    return read_record(write(record, samples, folder))


@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from("wsf"), st.sampled_from("wsf")), min_size=1, max_size=30))
def test_it_is_the_number_of_images_with_another_verdict(
    pairs: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    said, found = ("".join(side) for side in zip(*pairs, strict=True))
    claim, record = Claim.of(evaluated(folder / "said", said)), evaluated(folder / "found", found)
    assert ("".join(claim.outcomes), outcomes_of(record)) == (said, found)
    expected = sum(a != b for a, b in pairs)
    assert agreement(claim, record) == Agreement(differing=expected, compared=len(pairs), apart=0)


def test_equal_accuracies_of_other_images_do_not_agree(tmp_path: Path) -> None:
    """Both leave ten of twenty standing, and no image has the same verdict."""
    claim = Claim.of(evaluated(tmp_path / "said", "s" * 10 + "f" * 10))
    found = agreement(claim, evaluated(tmp_path / "found", "f" * 10 + "s" * 10))
    assert found.differing == 20 > Rules().allowed(20)


def test_fewer_images_are_the_first_of_the_claims(tmp_path: Path) -> None:
    claim = Claim.of(evaluated(tmp_path / "said", "sfwsfw"))
    assert agreement(claim, evaluated(tmp_path / "found", "sfs")) == Agreement(differing=1, compared=3, apart=0)


def test_what_another_black_box_set_broke_is_apart(tmp_path: Path) -> None:
    claim = Claim.of(evaluated(tmp_path / "said", "sbfbw", "one"))
    other = evaluated(tmp_path / "other", "ssbff", "other")
    assert agreement(claim, other) == Agreement(differing=1, compared=2, apart=3)
    # Whether an image is right without an attack is no matter of the set.
    boast, wrong = Claim.of(evaluated(tmp_path / "boast", "bwb", "one")), evaluated(tmp_path / "wrong", "wbb", "other")
    assert agreement(boast, wrong) == Agreement(differing=2, compared=2, apart=1)
    # With the same set broken is broken, by whatever attack.
    same = evaluated(tmp_path / "same", "ssbff", "one")
    assert agreement(claim, same) == Agreement(differing=2, compared=5, apart=0)


@pytest.mark.parametrize(
    ("changes", "others_can"),
    [
        ({"suite": "quick"}, True),
        ({"suite": "pgd5000+ifgsm5"}, True),
        ({"suite": "pgd5001"}, False),
        ({"suite": "torchattacks:PGD(steps=5)"}, False),
        ({"suite": "quick", "split": "validation"}, False),
        ({"suite": "quick", "view": "member1"}, False),
        ({"suite": "quick", "dataset": "mine"}, False),
    ],
)
def test_what_others_can_repeat_can_be_claimed(changes: dict[str, Any], others_can: bool) -> None:
    record, _ = make_record([True], {"pgd5": [True]})
    assert can_claim(replace(record, **changes), Limits()) is others_can


def test_a_record_without_samples_backs_no_claim() -> None:
    record, _ = make_record([True], {"pgd5": [True]}, model="mine/best")
    with pytest.raises(RecordError, match="mine/best: the record was not read from a file"):
        Claim.of(record)


@pytest.mark.parametrize(("images", "most"), [(1, 1), (199, 1), (200, 2), (1000, 6), (10_000, 51)])
def test_half_a_percent_and_one_image_may_differ(images: int, most: int) -> None:
    assert Rules().allowed(images) == most


def score(key: str, count: int, n: int) -> dict[str, Any]:
    low, high = wilson(count, n)
    return {key: count, "n": n, "accuracy": count / n, "ci_low": low, "ci_high": high}


def claiming(letters: str, **changes: Any) -> dict[str, Any]:
    """claims.json of one claim, on images that came to what these letters say."""
    n = len(letters)
    record, _ = make_record([letter != "w" for letter in letters], {"pgd5": [True] * n})
    values = {f.name: plain(getattr(record, f.name)) for f in fields(Claim) if hasattr(record, f.name)}
    values |= {"norm": "linf", "eps": 0.1, "precision": None, "blackbox": None, "outcomes": [letters]}
    values |= {"clean": score("correct", n - letters.count("w"), n), "robust": score("robust", letters.count("s"), n)}
    del values["randomised"]
    return {"schema": 2, "name": "mine", "claims": [values | changes]}


# Eleven attacks that go on in bounded time, by names of 17 letters and of 18.
LONG = "+".join([f"clipped-member{1000 + i}" for i in range(3)] + [f"random-member{1000 + i}" for i in range(8)])


@pytest.mark.parametrize(
    ("letters", "changes"),
    [
        ("w", {}),
        ("s", {}),
        ("f", {}),
        ("sfw" * 2, {}),
        ("sf" * 5, {"seed": 2**31 - 1, "commit": "1" * 40 + "-dirty", "precision": "bf16"}),
        ("wsfb", {"blackbox": HASHES["one"], "precision": "float32", "commit": None}),
        ("s", {"eps": 1e-6, "seed": 0}),
        ("s", {"eps": 1, "commit": "1234567"}),
        ("s", {"norm": "l2", "eps": 100}),
        ("s", {"suite": LONG}),
    ],
)
def test_what_can_be_true_may_be_claimed(letters: str, changes: dict[str, Any]) -> None:
    """Up to the ends of every range."""
    values = claiming(letters, **changes)
    assert parse(values, Limits(max_images=len(letters), max_claims=1)).as_dict() == values


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"eps": 1.001}, "norm 'linf' and eps 1.001 are no threat model"),
        ({"norm": "l2", "eps": 100.1}, "norm 'l2' and eps 100.1"),
        ({"eps": 9.9e-7}, "eps 9.9e-07"),
        ({"blackbox": "sha256:" + "1" * 63}, "blackbox is 'sha256:"),
        ({"blackbox": HASHES["one"], "suite": "quick"}, "suite quick has none, expected null"),
        ({"commit": "123456"}, "commit is '123456'"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"suite": LONG + "0"}, "longer than 16"),
        ({"suite": "torchattacks:PGD(a='b:c')"}, "a toolkit's attacks are not claimed"),
        ({"suite": "pgd5001"}, "takes 5001 steps, at most 5000"),
        ({"outcomes": ["sff"]}, r"outcomes: \(3, 1\) images correct and robust, its scores say \(2, 1\)"),
        ({"clean": score("correct", 4, 4)}, "n is 3, its scores are of 4 and 3 images"),
        ({"clean": {**score("correct", 2, 3), "accuracy": 1.5}}, r"clean.accuracy is 1.5: expected a fraction"),
        ({"clean": {**score("correct", 2, 3), "accuracy": 0.5}}, r"clean.accuracy is 0.5: 2 of 3 images make 0.666667"),
        ({"robust": {**score("robust", 1, 3), "ci_low": 0.5}}, r"robust.ci_low is 0.5: 1 of 3 images make 0.061"),
    ],
)
def test_what_cannot_be_true_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        parse(claiming("sfw", **changes), Limits())


def test_a_field_that_is_missing_is_named_with_its_place() -> None:
    values = claiming("sfw")
    del values["claims"][0]["suite"]
    with pytest.raises(BundleError, match=r"claims\.json: missing field 'suite' in claims\.claims\[0\]"):
        parse(values, Limits())


def test_an_expected_accuracy_need_not_be_that_of_a_count() -> None:
    expected = {**score("correct", 2, 3), "accuracy": 0.6}
    randomised = {"draws": 100, "gradient_draws": 10}
    values = claiming("sfw", clean=expected, randomised=randomised)
    assert parse(values, Limits()).claims[0].clean.accuracy == 0.6
    with pytest.raises(BundleError, match=r"clean.accuracy is 0.6: 2 of 3 images make 0.666667"):
        parse(claiming("sfw", clean=expected), Limits())
    values["claims"][0]["clean"]["ci_low"] = 0.0
    with pytest.raises(BundleError, match=r"clean.ci_low is 0: 1.8 of 3 images make"):
        parse(values, Limits())


def test_no_more_images_than_are_taken() -> None:
    with pytest.raises(BundleError, match="n is 3: expected 1 to 2 images"):
        parse(claiming("sfw"), Limits(max_images=2))


def test_outcomes_have_to_be_those_of_the_scores(tmp_path: Path) -> None:
    claim = Claim.of(evaluated(tmp_path / "said", "sfw" * 400))
    assert [len(line) for line in claim.outcomes] == [1000, 200]
    values = Claims(name="mine", claims=(claim,)).as_dict()
    assert parse(values, Limits()).claims == (claim,)
    for lines, reason in (
        (["s"], "a letter of wsfb for each of 1200"),
        (["sfx" * 400], "a letter"),
        (["sss" * 400], "1200"),
    ):
        values["claims"][0]["outcomes"] = lines
        with pytest.raises(BundleError, match=rf"claims\[0\].outcomes: .*{reason}"):
            parse(values, Limits())
    with pytest.raises(BundleError, match="schema is 1, this version reads 2"):
        parse({**values, "schema": 1, "claims": [claim_values(claim)]}, Limits())


def claim_values(claim: Claim) -> object:
    return Claims(name="mine", claims=(claim,)).as_dict()["claims"][0]
