"""Claims agree with a repetition image by image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import make_record, write

from ensemble_bench.errors import BundleError
from ensemble_bench.leaderboard.rules import Rules
from ensemble_bench.records import Blackbox, Record, read_record
from ensemble_bench.submissions.format.claims import Agreement, Claim, Claims, agreement, outcomes_of, parse
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
    # With the same set broken is broken, by whatever attack.
    same = evaluated(tmp_path / "same", "ssbff", "one")
    assert agreement(claim, same) == Agreement(differing=2, compared=5, apart=0)


@pytest.mark.parametrize(("images", "most"), [(1, 1), (199, 1), (200, 2), (1000, 6), (10_000, 51)])
def test_half_a_percent_and_one_image_may_differ(images: int, most: int) -> None:
    assert Rules().allowed(images) == most


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
