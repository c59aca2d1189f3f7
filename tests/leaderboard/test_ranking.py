"""Which records have a rank, and the reason that each of the others gets: no number wins by how it was made."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from site_pages import publish, verdicts_on
from synthetic_runs import make_record, write

from ensemble_bench.errors import RecordError
from ensemble_bench.evaluation.trust.masking import WARNINGS
from ensemble_bench.leaderboard import leaderboard_csv
from ensemble_bench.leaderboard.published import name_of
from ensemble_bench.leaderboard.ranking import NO_CONTEST, Standing, standings
from ensemble_bench.leaderboard.rules import Rules, read_rules, rules_of, write_rules
from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.leaderboard.site.models import read_models
from ensemble_bench.records import NamedWarning, Record, Search, find_records, identify, samples_to_parquet

RULES = Rules(suite="ifgsm5+probe", n=20, operator="us")
FLOAT32 = Search(precision="float32", folded=False, compiled=False)


def scored(name: str, robust: int, **about: Any) -> Record:
    """The record of a model that withstands the board's suite on `robust` of 20 images, evaluated as it should be."""
    n = about.pop("images", 20)
    attacks = {about.pop("attack", "ifgsm5"): [image < robust for image in range(n)]}
    fields: dict[str, Any] = {
        "suite": RULES.suite,
        "cascade": False,
        "search": FLOAT32,
        "commit": "1" * 40,
        "model": f"{name}/best",
        "weights_hash": f"sha256:{identify({'name': name})}",
        **about,
    }
    fields.setdefault("id", identify({key: str(value) for key, value in fields.items()} | {"robust": robust, "n": n}))
    return make_record([True] * n, attacks, **fields)[0]


def board(root: Path, *records: Record, rules: Rules = RULES, **verdict: Any) -> dict[str, Standing]:
    """Publish records, each with the operator's verdict on it, and return where each stands, by its model's name."""
    write_rules(rules, root)
    for record in records:
        publish(root, record.run, record, verified=verdicts_on(record, **verdict))
    found = find_records(root)
    return {record.run: standing for record, standing in zip(found, standings(found), strict=True)}


def test_models_that_were_evaluated_alike_are_ranked_by_their_worst_case(tmp_path: Path) -> None:
    records = [scored(name, robust) for name, robust in (("low", 5), ("high", 15), ("same", 5), ("middle", 9))]
    found = board(tmp_path, *records)
    assert {name: standing.rank for name, standing in found.items()} == {"high": 1, "middle": 2, "low": 3, "same": 3}
    assert not any(standing.reasons for standing in found.values())


ATTEMPTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "a trivial suite": ({"suite": "ifgsm1", "attack": "ifgsm1"}, "suite ifgsm1: the board ranks by ifgsm5+probe"),
    "without the probe": ({"suite": "ifgsm5"}, "suite ifgsm5: the board ranks by"),
    "a suite without its black-box attack": ({"suite": "strongest-blackbox"}, "suite strongest-blackbox"),
    "one image": ({"images": 1}, "1 images: the board ranks on 20"),
    "a lucky seed out of many": ({"seed": 7}, "attack seed 7: the board's is 0"),
    "validation images": ({"split": "validation"}, "validation images: the board ranks on test images"),
    "a search in bf16": (
        {"search": replace(FLOAT32, precision="bf16")},
        "attacks searched in bf16: the board's search in float32",
    ),
    "a precision that nobody wrote down": ({"search": None}, "the precision of its search was not written down"),
    "a dirty tree": ({"commit": "1" * 40 + "-dirty"}, "evaluated from a tree with changes"),
    "an older suite of that name": ({"attack": "pgd5"}, r"an older one: it lacks ifgsm5 and has pgd5"),
}


@pytest.mark.parametrize(("about", "reason"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_the_highest_number_has_no_rank_if_it_was_not_measured_alike(
    about: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    found = board(tmp_path, scored("honest", 5), scored("gaming", about.get("images", 20), **about))
    assert (found["honest"].rank, found["gaming"].rank) == (1, None)
    assert [told for told in found["gaming"].reasons if reason in told], found["gaming"].reasons
    rows = leaderboard_csv(find_records(tmp_path), root=tmp_path).splitlines()
    assert ["gaming/best" in row for row in rows] == [False, False, True]  # below, though its number is the highest
    assert reason in rows[2]


@pytest.mark.parametrize("warning", [*WARNINGS, "one-of-a-plugin"])
def test_a_warning_that_contests_the_number_takes_the_rank_away(warning: str, tmp_path: Path) -> None:
    told = NamedWarning(name=warning, message="a figure")
    found = board(tmp_path, scored("honest", 5), scored("masked", 20, warnings=(told,)))["masked"]
    expected = () if warning in NO_CONTEST else (f"contested by {warning}: a figure",)
    assert found.reasons == expected


def test_what_is_only_said_of_training_and_set_contests_no_number() -> None:
    assert WARNINGS.keys() > NO_CONTEST
    assert {"blackbox-breaks-more", "square-breaks-more", "large-eps-not-zero", "unstable-predictions"}.isdisjoint(
        NO_CONTEST
    )


def test_a_flag_of_the_operator_takes_the_rank_away(tmp_path: Path) -> None:
    flag = NamedWarning(name="fits-test-images", message="360 of 360, but 90 of 180")
    found = board(tmp_path, scored("learnt", 20), flags=[flag])["learnt"]
    assert found.reasons == ("contested by fits-test-images: 360 of 360, but 90 of 180",)


@pytest.mark.parametrize(
    "changed", [{"record": "0" * 64}, {"suite": "ifgsm1"}, {"n": 10}, {"seed": 1}, {"precision": "bf16"}]
)
def test_a_verdict_on_something_else_ranks_nothing(changed: dict[str, Any], tmp_path: Path) -> None:
    """One that was given on another suite, n, seed or precision, and moved to this record by its id."""
    found = board(tmp_path, scored("moved", 20), **changed)["moved"]
    assert (found.verdict, found.reasons) == (None, ("the board's operator gave no verdict on this record",))


def test_what_did_not_come_out_again_has_no_rank(tmp_path: Path) -> None:
    found = board(tmp_path, scored("boast", 20), status="not reproduced")["boast"]
    assert found.reasons == ("the operator's verdict on it is not reproduced",)


@pytest.mark.parametrize("headline", ["best", "averaged"])
def test_the_same_weights_have_one_rank(headline: str, tmp_path: Path) -> None:
    """That of the model that was published first, also if a copy calls them its headline checkpoint."""
    first = scored("first", 9)
    about = {"checkpoint": headline, "model": f"copy/{headline}"}
    copy = scored("copy", 9, weights_hash=first.weights_hash, **about)
    board(tmp_path, first)
    publish(tmp_path, "copy", copy, verified=verdicts_on(copy, date="2027-01-01"))
    found = {r.run: s for r, s in zip(find_records(tmp_path), standings(find_records(tmp_path)), strict=True)}
    assert found["first"].rank == 1
    assert found["copy"].reasons == ("these weights are published as first",)


def test_other_settings_than_the_others_had_have_no_rank(tmp_path: Path) -> None:
    """Another black-box set, another number of steps: what a name hides."""
    easy = scored("easy", 20)
    easy = replace(easy, attacks=(replace(easy.attacks[0], settings={"steps": 1}),))
    found = board(tmp_path, scored("a", 5), scored("b", 6), easy)
    assert (found["a"].rank, found["b"].rank, found["easy"].rank) == (2, 1, None)
    assert found["easy"].reasons[0].startswith("other settings of ifgsm5 than most models")


def test_a_model_of_several_records_is_one_of_those_that_set_the_usual_settings(tmp_path: Path) -> None:
    """Three evaluations of one model with few steps do not outvote two models."""
    easy = [scored("easy", 20 - commit, commit=str(commit) * 40) for commit in range(3)]
    easy = [replace(record, attacks=(replace(record.attacks[0], settings={"steps": 1}),)) for record in easy]
    board(tmp_path, scored("a", 5), scored("b", 6))
    for record in easy:
        publish(tmp_path, "easy", record, verified=verdicts_on(*easy))
    found = find_records(tmp_path)
    ranks = {(record.run, standing.rank) for record, standing in zip(found, standings(found), strict=True)}
    assert ranks == {("b", 1), ("a", 2), ("easy", None)}


def test_a_model_has_one_rank_and_is_not_punished_for_further_evaluations(tmp_path: Path) -> None:
    """Ten more seeds, each of which breaks another image: the rank stays, and the union stands beside it."""
    often, once = scored("often", 10), scored("once", 9)
    more = [scored("often", 9, seed=seed) for seed in range(1, 11)]
    board(tmp_path, once)
    for place, record in enumerate((often, *more)):
        publish(tmp_path, "often", record, verified=verdicts_on(often, *more))
        robust = [image < 10 and image != place - 1 for image in range(20)]
        _, samples = make_record([True] * 20, {"ifgsm5": robust if place else [image < 10 for image in range(20)]})
        folder = next(tmp_path.rglob(f"{record.id}/record.json")).parent
        (folder / "samples.parquet").write_bytes(samples_to_parquet(samples))
    models = {model.name: model for model in read_models(tmp_path)}
    assert {name: model.standing.rank for name, model in models.items()} == {"often": 1, "once": 2}
    assert models["often"].record == often
    assert models["often"].union is not None
    assert models["often"].union.accuracy == 0.0
    page = (build_site(tmp_path, tmp_path / "site").parent / models["often"].folder / "index.html").read_text()
    assert "Worst case over all evaluations of these weights" in page


def test_runs_of_ones_own_have_no_rank(tmp_path: Path) -> None:
    record, samples = make_record([True], {"pgd5": [True]})
    write(record, samples, tmp_path / record.run)
    (standing,) = standings(find_records(tmp_path))
    assert standing.reasons == ("no operator of a board evaluated it",)


@pytest.mark.parametrize("below", ["", "digits", "digits/linf8of255", "digits/linf8of255/records/low", "digits/.."])
def test_ranks_are_the_same_from_every_folder(below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules lie in the root of the boards, whose records may be read from within it."""
    board(tmp_path, scored("low", 5), scored("high", 15))
    monkeypatch.chdir(tmp_path / below.removesuffix(".."))
    root = Path("..") if below.endswith("..") else Path()
    found = find_records(root)
    ranks = {name_of(record): standing.rank for record, standing in zip(found, standings(found), strict=True)}
    if below.endswith("low"):  # alone
        assert ranks == {"low": 1}
    else:
        assert ranks == {"low": 2, "high": 1}


def test_a_board_has_its_own_rules_or_those_of_its_root(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "linf8of255"
    rules = rules_of(folder)
    assert (rules.suite, rules.n, rules.seed, rules.clean) == ("strongest", None, 0, True)
    write_rules(RULES, tmp_path)
    assert rules_of(folder) == RULES
    write_rules(replace(RULES, n=7), folder)
    assert rules_of(folder).n == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "board.json: "),
        ("[]", "expected an object with some of suite, n, seed"),
        ('{"images": 3}', "unknown field 'images'"),
        ('{"suite": "quick"}', "no probe for masked gradients: choose quick+probe"),
        ('{"suite": "probe"}', "'probe', which has no attack that counts"),
        ('{"suite": "recapture+probe"}', "no attack that counts"),
        ('{"suite": "strongst"}', "did you mean strongest"),
        ('{"n": 0}', "n is 0: expected at least 1 image"),
        ('{"seed": -1}', "seed is -1"),
        ('{"differ": 1.5}', "differ is 1.5"),
        ('{"blackbox": "huge"}', "unknown preset 'huge'"),
        ('{"clean": "yes"}', "expected true or false"),
    ],
)
def test_rules_that_cannot_be_are_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=re.escape(says)):
        read_rules(path)
