"""What the site takes from a published model: its verdicts, weights, card and name."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from site_pages import Page, publish, verdicts_on
from synthetic_runs import make_record, write

from ensemble_bench.errors import RecordError
from ensemble_bench.files import sha256_bytes, sha256_file
from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.leaderboard.site.boards import boards_of
from ensemble_bench.leaderboard.site.entries import entry_of
from ensemble_bench.leaderboard.site.models import Model, read_models
from ensemble_bench.leaderboard.site.scatter import scatter
from ensemble_bench.records import NamedWarning, write_record


def published(root: Path, **about: Any) -> Model:
    """A model published with all that can be, `about` it changed."""
    weights = b"weights"
    record, _ = make_record([True], {"pgd5": [True]}, weights_hash=sha256_bytes(weights))
    verdict = verdicts_on(record)
    publish(root, "m", record, **({"card": "hello", "weights": weights, "verified": verdict} | about))
    return read_models(root)[0]


def test_a_best_checkpoint_that_is_the_last_one_counts_once(tmp_path: Path) -> None:
    best, _ = make_record([True], {"pgd5": [True]})
    last = replace(best, checkpoint="last", model=f"{best.run}/last")
    write_record(last, tmp_path / "a")
    write_record(best, tmp_path / "b")
    (model,) = read_models(tmp_path)
    assert model.records == (best,)


def test_weights_card_and_verification(tmp_path: Path) -> None:
    model = published(tmp_path / "boards")
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    page = Page(site / model.folder / "index.html")
    assert sha256_file(site / model.folder / "best.safetensors") == model.record.weights_hash
    assert {"best.safetensors", "best.json"} <= {a["href"] for a in page.all("a")}
    assert "✓ verified by the operator, 2 January 2026: suite paper, n = 1, seed 0" in " ".join(page.text.split())
    assert "hello" in page.text
    (line,) = Page(site / "index.html").rows()
    assert line["Verified"] == ("✓ verified", "verified")


def test_weights_that_are_kept_elsewhere_are_in_the_site(tmp_path: Path) -> None:
    """As tools for large files have it: a symbolic link, by a path that holds where it lies."""
    model = published(tmp_path / "boards")
    weights = model.weights[0]
    weights.rename(tmp_path / "boards" / "kept")
    weights.symlink_to("../../../../kept")
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    copy = site / model.folder / weights.name
    assert (copy.is_symlink(), sha256_file(copy)) == (False, model.record.weights_hash)


def test_verified_needs_no_claim(tmp_path: Path) -> None:
    model = published(tmp_path / "boards")
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    assert "Nothing was claimed of it." in Page(site / model.folder / "index.html").text
    assert "Where the submitter had claimed it," in Page(site / "index.html").text


def test_a_flag_is_a_warning_too(tmp_path: Path) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, weights_hash=sha256_bytes(b"weights"))
    flag = NamedWarning(name="fits-test-images", message="360 of 360, but 90 of 180")
    for name, flags, none in (("flagged", [flag], 0), ("plain", [], 1)):
        model = published(tmp_path / name, verified=verdicts_on(record, flags=flags))
        site = build_site(tmp_path / name, tmp_path / f"{name}-site").parent
        text = Page(site / model.folder / "index.html").text
        assert (text.count("None: no evaluation found"), text.count(flag.message) > 0) == (none, bool(flags))


def test_a_verdict_on_other_weights_counts_for_nothing(tmp_path: Path) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, weights_hash="sha256:other")
    model = published(tmp_path, verified=verdicts_on(record))
    assert (model.verified, model.standing.verdict) == (None, None)


def test_a_verdict_stands_on_its_own_record_alone(tmp_path: Path) -> None:
    """Two evaluations of the same weights, of which the operator made one: only that one is marked."""
    records = [
        make_record([True] * n, {"pgd5": [True] * n}, suite=suite)[0] for suite, n in (("quick", 3), ("paper", 2))
    ]
    for record in records:
        publish(tmp_path / "boards", "m", record, verified=verdicts_on(records[1]))
    (model,) = read_models(tmp_path / "boards")
    assert [standing.verdict is not None for standing in model.standings] == [False, True]
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    assert " ".join(Page(site / model.folder / "index.html").text.split()).count("✓ verified") == 1
    (line,) = Page(site / "index.html").rows()
    assert (line["Suite"][0], line["Verified"][0]) == ("quick", "–")


def test_a_verdict_from_before_names_no_record(tmp_path: Path) -> None:
    earlier = {"status": "verified", "reasons": [], "suites": ["paper"], "n": 1, "date": "2025-01-02"}
    record, _ = make_record([True], {"pgd5": [True]}, weights_hash=sha256_bytes(b"weights"))
    model = published(tmp_path / "boards", verified=earlier | {"weights_hash": record.weights_hash})
    assert model.standing.verdict is None
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    page = Page(site / model.folder / "index.html").text
    assert "A verdict of 2 January 2025 on these weights names no record" in page
    assert "✓ verified" not in page


def test_a_line_carries_the_spread_over_its_seeds(tmp_path: Path) -> None:
    for seed, count in enumerate((2, 3, 4)):
        robust = [image < count for image in range(10)]
        record, samples = make_record([True] * 10, {"pgd5": robust}, seeds=(seed,), weights_hash=f"sha256:{seed:064x}")
        write(record, samples, tmp_path / "runs" / record.run)
    for row in csv.DictReader(build_site(tmp_path / "runs", tmp_path / "site").with_name("leaderboard.csv").open()):
        assert (row["seeds_mean"], row["seeds_sd"], row["seeds_n"]) == ("0.3000", "0.1000", "3")


def test_a_seed_that_was_trained_again_counts_once_on_the_page_and_in_its_files(tmp_path: Path) -> None:
    """Not the better of the two, and no ensemble that joins a network of one that counts."""
    seeds = {"a": (0,), "again": (0,), "b": (1,), "joined": (1, 2)}
    for (name, own), count in zip(seeds.items(), (3, 9, 4, 8), strict=True):
        robust = [image < count for image in range(10)]
        about = {"seeds": own, "model": f"{name}/best", "weights_hash": sha256_bytes(name.encode())}
        record, samples = make_record([True] * 10, {"pgd5": robust}, **about)
        write(record, samples, tmp_path / "runs" / name)
    index = build_site(tmp_path / "runs", tmp_path / "site")
    for row in csv.DictReader(index.with_name("leaderboard.csv").open()):
        assert (row["seeds_mean"], row["seeds_n"]) == ("0.3500", "2")
    line = next(iter(Page(index).rows()))
    assert line["Robust %"][0] == "35.0 ± 7.1"
    assert "mean of 2 seeds" in line["Model"][0]


def test_a_model_of_which_nothing_is_known_is_described_by_its_data(tmp_path: Path) -> None:
    record, samples = make_record([True], {"pgd5": [True]}, recipe=None, architecture=None, model="timm:net")
    write(replace(record, checkpoint=None), samples, tmp_path / "runs" / "net")
    (model,) = read_models(tmp_path / "runs")
    page = build_site(tmp_path / "runs", tmp_path / "site").parent / model.folder / "index.html"
    assert "<h1>timm:net</h1>\n<p>digits, linf 8/255</p>" in page.read_text()


def test_what_is_of_other_weights_says_so(tmp_path: Path) -> None:
    """The parts of a model stand beside the whole of the same weights, and each warning names whose it is."""
    for name, part in (("averaged", None), ("averaged", "member1"), ("last", None)):
        warning = NamedWarning(name=f"seen-on-{name}", message="a figure")
        about = {"checkpoint": name, "weights_hash": sha256_bytes(name.encode()), "view": part}
        about |= {"model": f"m/{name}{f'#{part}' if part else ''}", "warnings": (warning,)}
        record, samples = make_record([True], {"pgd5": [True]}, suite="appendix", **about)
        write(record, samples, tmp_path / "runs" / "m")
    (model,) = read_models(tmp_path / "runs")
    page = Page(build_site(tmp_path / "runs", tmp_path / "site").parent / model.folder / "index.html")
    assert [line["Part"][0] for line in page.rows(len(page.tables) - 1)] == ["whole", "member1"]
    text = " ".join(page.text.split())
    assert "seen-on-averaged a figure Suite appendix, n = 1 seen-on-last" in text
    assert "seen-on-last a figure Suite appendix, n = 1, other weights (last checkpoint)" in text


def test_a_recipe_that_is_only_claimed_is_shown_as_claimed(tmp_path: Path) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, recipe="ensemble2adv")
    local, _ = make_record([True], {"pgd5": [True]}, recipe="ensemble2adv", model="run/best")
    publish(tmp_path / "boards", "m", record, verified=verdicts_on(record))
    write_record(local, tmp_path / "runs" / "run" / "evaluations" / local.id)
    for root, told in (("boards", "said to be ensemble2adv"), ("runs", "ensemble2adv")):
        site = build_site(tmp_path / root, tmp_path / f"{root}-site").parent
        (model,) = read_models(tmp_path / root)
        entry = entry_of(model)
        assert entry.claimed == (root == "boards")
        for page in (site / "index.html", site / model.folder / "index.html"):
            text = " ".join(Page(page).text.split())
            assert told in text
            assert ("said to be" in text) == entry.claimed
        chart = scatter(*boards_of([entry_of(model)]))
        assert chart is None or all("ensemble2adv" not in label.text for label in chart.labels) == entry.claimed


@pytest.mark.parametrize("name", ["CON", "nul.txt", "aux", "Com1.tar.gz", "trailing.", "LPT9"])
def test_names_that_systems_keep_are_no_folders(tmp_path: Path, name: str) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, model=f"{name}/best")
    write_record(record, tmp_path / name / "evaluations" / record.id)
    (model,) = read_models(tmp_path)
    folder = model.folder.rpartition("/")[2]
    assert folder.partition(".")[0].lower() not in ("con", "nul", "aux", "com1", "lpt9")
    assert not folder.endswith(".")


def test_a_publication_without_its_verdict_is_not_shown(tmp_path: Path) -> None:
    record, _ = make_record([True], {"pgd5": [True]})
    for name in ("whole", "half"):
        board = publish(tmp_path / "boards", name, record, verified=verdicts_on(record))
    (board / "verified" / "half.json").unlink()
    assert [model.name for model in read_models(tmp_path / "boards")] == ["whole"]


@pytest.mark.parametrize("verdict", [[], {"status": "verified"}, {"schema": 3}, {"schema": 2, "verdicts": "no list"}])
def test_a_broken_verdict_is_named(tmp_path: Path, verdict: Any) -> None:
    with pytest.raises(RecordError, match=r"m\.json: not a verification"):
        published(tmp_path, verified=verdict)


def test_other_weights_than_those_scored_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"best\.safetensors: not the weights that"):
        published(tmp_path, weights=b"others")
