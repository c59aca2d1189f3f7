"""RobustBench's entries in the table: quoted at the accuracy that they are ranked by, and marked as theirs."""

import json
from pathlib import Path
from typing import Any

import pytest
from site_pages import Page, check_safe
from synthetic_runs import build_runs

from ensemble_bench.errors import RecordError
from ensemble_bench.leaderboard.site import build_site

ENTRY = {
    "link": "https://arxiv.org/abs/1",
    "name": "A title",
    "authors": "A. Author",
    "additional_data": False,
    "number_forward_passes": 2,
    "dataset": "cifar10",
    "venue": "Venue 2024",
    "architecture": "ResNet-152",
    "eps": "8/255",
    "clean_acc": "95.19",
    "reported": "69.71",
    "autoattack_acc": "70.08",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of ours."""
    return build_runs(tmp_path_factory.mktemp("runs"), ("singleadv", "ensemble2adv"), n=60, suites=("paper",))


def theirs(folder: Path, **entries: dict[str, Any]) -> Path:
    """A folder as RobustBench's model_info, with these entries for cifar10/Linf."""
    (folder / "cifar10" / "Linf").mkdir(parents=True)
    for name, told in entries.items():
        (folder / "cifar10" / "Linf" / f"{name}.json").write_text(json.dumps(ENTRY | told))
    return folder


@pytest.mark.parametrize("below", ["", "cifar10/Linf"])
def test_robustbench_stands_in_the_same_table(tmp_path: Path, runs: Path, below: str) -> None:
    folder = theirs(tmp_path / "rb", plain={}, adaptive={"external": "69.71", "unreliable": True, "footnote": "Why."})
    site = build_site(runs, tmp_path / "site", robustbench=folder / below).parent
    told = {row["model"]: row for row in json.loads((site / "leaderboard.json").read_text())}
    assert len(told) == 4
    plain, adaptive = told["plain"], told["adaptive"]
    assert (plain["robust_accuracy"], plain["suite"]) == (pytest.approx(0.7008), "autoattack")
    assert (adaptive["robust_accuracy"], adaptive["suite"]) == (pytest.approx(0.6971), "external")
    assert (plain["norm"], plain["eps"], plain["n"]) == ("linf", "8/255", 10_000)
    assert (plain["source"], plain["forward_passes"], plain["link"]) == ("RobustBench", 2, ENTRY["link"])
    assert adaptive["warnings"] == "unreliable (Why.)"
    page = Page(site / "index.html")
    boards = [heading for heading in page.headings if "linf" in heading]
    assert boards == ["digits, linf 8/255", "cifar10, linf 8/255"]  # what was evaluated here stands first
    check_safe(page, site)
    assert "quoted, not evaluated" in page.text


def test_models_and_folders_around_theirs_may_be_called_anything(tmp_path: Path, runs: Path) -> None:
    folder = theirs(tmp_path / "L2" / "rb", L2={"architecture": "ResNet<br/>152", "venue": "GitHub,<br>2024"})
    site = build_site(runs, tmp_path / "site", robustbench=folder).parent
    told = next(row for row in json.loads((site / "leaderboard.json").read_text()) if row["model"] == "L2")
    assert (told["data_name"], told["norm"]) == ("cifar10", "linf")
    assert "RobustBench, ResNet 152, GitHub, 2024" in " ".join(Page(site / "index.html").text.split())


def test_folders_say_what_entries_get_wrong(tmp_path: Path, runs: Path) -> None:
    folder = theirs(tmp_path / "rb", near={"eps": "0.031"})
    (folder / "cifar10").rename(folder / "cifar100")
    site = build_site(runs, tmp_path / "site", robustbench=folder).parent
    near = next(row for row in json.loads((site / "leaderboard.json").read_text()) if row["model"] == "near")
    assert (near["data_name"], near["norm"], near["eps"]) == ("cifar100", "linf", "8/255")
    assert "eps 0.031" in Page(site / "index.html").text


def test_entries_without_a_threat_are_refused_by_name(tmp_path: Path, runs: Path) -> None:
    folder = theirs(tmp_path / "rb", plain={})
    (folder / "cifar10" / "Linf").rename(folder / "cifar10" / "other")
    with pytest.raises(RecordError, match=r"plain\.json: cannot tell the threat"):
        build_site(runs, tmp_path / "site", robustbench=folder)
