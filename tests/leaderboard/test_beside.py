"""Their leaderboard beside ours: every entry of both, ranked by what is best known, nothing hidden."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import HASH, WARNING, record_of

from ensemble_bench.cli.console import show_tables
from ensemble_bench.errors import RecordError, UnknownNameError
from ensemble_bench.leaderboard.beside import beside_robustbench
from ensemble_bench.records import Record, Threat, find_records
from ensemble_bench.records.table import Table, to_csv, to_markdown

ROOT = Path(__file__).resolve().parents[2]


def entry(path: Path, clean: str, autoattack: str, **fields: Any) -> None:
    values = {
        "link": "https://example.org",
        "name": "A paper",
        "authors": "A. Author",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "ICLR 2020",
        "architecture": "ResNet-18",
        "eps": "8/255",
        "clean_acc": clean,
        "reported": "",
        "autoattack_acc": autoattack,
        **fields,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "model_info"
    entry(folder / "cifar10" / "Linf" / "Good.json", "90.00", "60.00", additional_data=True)
    entry(folder / "cifar10" / "Linf" / "Shaky.json", "92.00", "70.00", external="30.00", unreliable=True)
    entry(folder / "cifar10" / "Linf" / "Near.json", "80.00", "50.00", eps="0.031", venue="GitHub,<br>Oct 2019")
    entry(folder / "cifar10" / "Linf" / "Half.json", "80.00", "75.00", eps="4/255")
    entry(folder / "cifar10" / "L2" / "Round.json", "80.00", "75.00", eps="0.5")
    return folder


def scored(model: str, suite: str, robust: int, n: int = 100, **fields: Any) -> Record:
    about = {"data_name": "cifar10-jpeg", "dataset": "cifar10", "model": model, **fields}
    return record_of(clean=90, robust=robust, n=n, attacks=(), suite=suite, **about)


def rows_of(table: Table) -> dict[str, dict[str, Any]]:
    return {str(row[1]): dict(zip(table.keys, row, strict=True)) for row in table.rows}


def test_all_are_ranked_by_the_best_known_accuracy(theirs: Path) -> None:
    ours = [
        scored("a/best", "autoattack", 56),
        scored("a/best", "strongest+pgd50", 55),
        scored("b/best", "exhaustive", 20),
    ]
    table = beside_robustbench(theirs, ours)
    assert [row[:3] for row in table.rows] == [
        (1, "Good", "RobustBench"),
        (2, "Near", "RobustBench"),
        (None, "a/best", "ours"),
        (None, "Shaky", "RobustBench"),
        (None, "b/best", "ours"),
    ]
    rows = rows_of(table)
    assert (rows["Good"]["notes"], rows["Good"]["additional_data"]) == (None, "yes")
    assert (rows["Near"]["notes"], rows["Near"]["venue"]) == ("eps 0.031", "GitHub, Oct 2019")
    assert rows["Shaky"]["notes"] == "unreliable"
    assert (rows["Shaky"]["autoattack"].accuracy, rows["Shaky"]["best_known"].accuracy) == (0.7, 0.3)
    assert (rows["a/best"]["autoattack"].accuracy, rows["a/best"]["best_known"].accuracy) == (0.56, 0.55)
    assert rows["a/best"]["notes"] == "On the first 100 test images of cifar10-jpeg."
    assert (rows["a/best"]["additional_data"], rows["a/best"]["venue"]) == ("no", None)
    assert rows["b/best"]["autoattack"] is None


def test_only_full_evaluations_of_whole_models_stand_beside_theirs(theirs: Path) -> None:
    left_out = [
        scored("x", "paper", 99),
        scored("x", "autoattack", 99, view="logit"),
        scored("x", "autoattack", 99, dataset="digits"),
        scored("x", "autoattack", 99, threat=Threat(norm="l2", eps=8 / 255)),
        scored("x", "autoattack", 99, threat=Threat(norm="linf", eps=4 / 255)),
    ]
    assert len(beside_robustbench(theirs, left_out).rows) == 3
    official = scored("x", "autoattack", 5000, 10_000, data_name="cifar10", recipe=None)
    row = rows_of(beside_robustbench(theirs, [*left_out, official]))["x"]
    assert (row["notes"], row["additional_data"]) == (None, None)
    assert row["best_known"].ci_low < 0.5 < row["best_known"].ci_high
    assert row["rank"] == 2  # beside Near's 50.00 %
    contested = replace(official, warnings=(WARNING,))
    assert rows_of(beside_robustbench(theirs, [contested]))["x"]["rank"] is None
    assert "none of the 3 comparisons between ranked models" in beside_robustbench(theirs, [official]).caption


def test_equal_accuracies_share_a_rank(theirs: Path) -> None:
    """Also 65.88 % as a text beside 6,588 of 10,000 images, which differ in the last bit of a float."""
    entry(theirs / "cifar10" / "Linf" / "Even.json", "95.00", "65.88")
    entry(theirs / "cifar10" / "Linf" / "Equal.json", "85.00", "65.88")
    ours = scored("x", "autoattack", 6588, 10_000, data_name="cifar10")
    rows = beside_robustbench(theirs, [ours]).rows
    assert [row[:2] for row in rows if row[0]] == [(1, "Even"), (1, "Equal"), (1, "x"), (4, "Good"), (5, "Near")]


def test_other_data_sets_have_official_images_too(theirs: Path) -> None:
    entry(theirs / "cifar100" / "Linf" / "Good.json", "60.00", "25.00", dataset="cifar100")
    ours = scored("x", "autoattack", 3000, 10_000, data_name="cifar100", dataset="cifar100")
    rows = beside_robustbench(theirs, [ours], dataset="cifar100").rows
    assert [row[:2] for row in rows] == [(1, "x"), (2, "Good")]


def test_other_images_are_rows_of_their_own_and_warnings_show(theirs: Path) -> None:
    small, large = scored("x", "autoattack", 40), scored("x", "strongest", 45, data_hash=HASH.replace("ab", "cd"))
    table = beside_robustbench(theirs, [replace(small, warnings=(WARNING,)), large])
    shown = [(row[5] is not None, row[9]) for row in table.rows if row[2] == "ours"]
    where = "On the first 100 test images of cifar10-jpeg."
    assert shown == [(False, where), (True, f"unreliable: {WARNING.name}; {where}")]


def test_renderings(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = beside_robustbench(theirs, [scored("a/best", "autoattack", 56)])
    rows = list(csv.DictReader(io.StringIO(to_csv([table]))))
    assert [row["model"] for row in rows] == ["Good", "Near", "a/best", "Shaky"]
    assert (rows[0]["dataset"], rows[0]["threat"], rows[0]["best_known"]) == ("cifar10", "linf 8/255", "0.6000")
    assert float(rows[2]["best_known_ci_low"]) < 0.56 < float(rows[2]["best_known_ci_high"])
    assert "| – | Shaky | RobustBench | ResNet-18 | 92.0 | 70.0 | 30.0 | 1 | no | unreliable |" in to_markdown([table])
    show_tables([table])
    assert "Shaky" in capsys.readouterr().out


def test_other_threats_and_missing_entries(theirs: Path) -> None:
    half = beside_robustbench(theirs, [], threat=Threat(norm="linf", eps=4 / 255))
    assert [row[1] for row in half.rows] == ["Half"]
    assert [row[1] for row in beside_robustbench(theirs, [], threat=Threat(norm="l2", eps=0.5)).rows] == ["Round"]
    with pytest.raises(RecordError, match=r"no entries for eps 16/255, only for 0\.031, 4/255, 8/255"):
        beside_robustbench(theirs, [], threat=Threat(norm="linf", eps=16 / 255))
    with pytest.raises(RecordError, match="no model_info entries"):
        beside_robustbench(theirs, [], dataset="digits")
    with pytest.raises(UnknownNameError, match="unknown norm 'l1'"):
        beside_robustbench(theirs, [], threat=Threat(norm="l1", eps=0.5))


def test_the_published_entries_beside_the_published_records() -> None:
    folder = ROOT.parent / "shared" / "data" / "robustbench-model_info"
    if not folder.is_dir():
        pytest.skip("RobustBench's published entries are not here: ../shared/data/robustbench-model_info is absent")
    records = find_records(ROOT / "leaderboards")
    rows = rows_of(beside_robustbench(folder, records))
    ours = {record.model for record in records if record.suite in ("autoattack", "strongest")}
    assert {model for model, row in rows.items() if row["source"] == "ours"} == ours != set()
    assert len(rows) == len(list((folder / "cifar10" / "Linf").glob("*.json"))) + len(ours)
    values = [(row["rank"] is not None, row["best_known"].accuracy) for row in rows.values()]
    assert values == sorted(values, reverse=True)
    assert rows["Kang2021Stable"]["notes"] == "unreliable"
    assert all("cifar10-jpeg" in rows[model]["notes"] for model in ours)
