"""The whole report: its files, their bytes, and what it says about what is missing."""

import csv
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from synthetic_runs import WARNING, build_runs, make_record, result_of, write

from ensemble_bench.errors import RecordError
from ensemble_bench.records import find_records
from ensemble_bench.reports import Report, write_report
from ensemble_bench.reports.curves import read_curves
from ensemble_bench.reports.figures import attack_panels, training_panels, write_figure

RECIPES = ("singleadv", "doubleadv", "ensemble2adv", "separate2adv")
TABLES = [f"table1{part}.{suffix}" for part in "abc" for suffix in ("md", "csv", "tex")]
FIGURES = [f"figure2{part}.{suffix}" for part in "abc" for suffix in ("png", "pdf")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recipes with two seeds."""
    return build_runs(tmp_path_factory.mktemp("runs"), RECIPES, seeds=(0, 1), n=90, points=12)


@pytest.fixture(scope="module")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Report of these runs."""
    return write_report(runs, tmp_path_factory.mktemp("report"))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_everything_is_written_and_named(report: Report) -> None:
    assert sorted(path.name for path in report.paths) == sorted(["report.md", *TABLES, *FIGURES])
    assert all(path.stat().st_size > 100 for path in report.paths)
    assert [table.name for table in report.tables] == ["table1a", "table1b", "table1c"]
    assert len(report.verdicts) == 2 * 3 * 2  # suites, rivals, seeds
    assert report.notes == ()


def test_the_page_holds_tables_verdicts_and_figures(report: Report) -> None:
    page = report.paths[0].read_text()
    for table in report.tables:
        assert f"### {table.title}\n\n{table.caption}\n" in page
    assert all(f"- {verdict}\n" in page for verdict in report.verdicts)
    assert all(f"]({name})" in page for name in FIGURES if name.endswith("png"))


def test_the_csv_is_one_row_a_model(report: Report) -> None:
    (path,) = [path for path in report.paths if path.name == "table1b.csv"]
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == len(RECIPES) * 3
    assert {row["data_name"] for row in rows} == {"digits"}
    assert all(len(row["worst_case"]) == len("0.1234") for row in rows)


def test_another_process_gives_equal_bytes_without_torch_or_pyplot(runs: Path, report: Report, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from ensemble_bench.leaderboard import write_leaderboard\n"
        "from ensemble_bench.reports import write_report\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'scipy', 'pyarrow'} & set(sys.modules), 'heavy'\n"
        f"write_report({str(runs)!r}, {str(tmp_path / 'report')!r})\n"
        f"write_leaderboard({str(runs)!r}, {str(tmp_path / 'l.csv')!r})\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules), 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert hashes(tmp_path / "report") == hashes(report.paths[0].parent)


def test_as_paper_changes_table_1a_and_figures_2a_2b_alone(runs: Path, report: Report, tmp_path: Path) -> None:
    changed = write_report(runs, tmp_path, as_paper=True)
    assert "replaced by the rolling median" in changed.notes[-1]
    old, new = hashes(report.paths[0].parent), hashes(tmp_path)
    different = {name for name in old if old[name] != new[name]}
    assert {name.partition(".")[0] for name in different} == {"table1a", "figure2a", "figure2b", "report"}


def test_figures_are_pictures(report: Report) -> None:
    for path in report.paths:
        if path.suffix == ".png":
            picture = imread(path)
            assert picture.shape[0] > 500
            assert picture.shape[1] > 1000
            assert picture.std() > 0.05
        if path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF-")
            assert b"CreationDate" not in path.read_bytes()


def test_lines_of_the_figures_are_the_numbers(runs: Path) -> None:
    (panel,) = training_panels(read_curves(runs), "pgd20")
    assert [line.label for line in panel.lines] == ["singleadv", "doubleadv", "ensemble2adv"]
    seeds = [curve.accuracy["pgd20"] for curve in read_curves(runs) if curve.recipe == "doubleadv"]
    assert panel.lines[1].y == pytest.approx(np.mean(seeds, axis=0))
    assert panel.lines[1].spread == pytest.approx(np.std(seeds, axis=0, ddof=1))
    (panel,) = attack_panels(find_records(runs))
    assert panel.x_label == "steps of pgd500"
    assert [line.label for line in panel.lines] == list(RECIPES)
    curves = [
        result_of(record, "pgd500").curve or ()
        for record in find_records(runs)
        if record.suite == "paper500" and record.recipe == "separate2adv"
    ]
    assert panel.lines[3].y == pytest.approx(np.mean(curves, axis=0))
    assert panel.lines[3].x.tolist() == list(range(501))


def test_figure_2c_needs_the_same_attack_on_as_many_images(tmp_path: Path) -> None:
    build_runs(tmp_path, ("singleadv",), n=60, points=3)
    build_runs(tmp_path, ("ensemble2adv",), n=60, points=3, suites=("paper",))
    (panel,) = attack_panels(find_records(tmp_path))
    assert [line.label for line in panel.lines] == ["singleadv"]
    assert panel.omitted == ("ensemble2adv-digits-tiny-s0",)
    report = write_report(tmp_path, tmp_path / "report")
    assert any("Not in Figure 2c" in note and "ensemble2adv-digits-tiny-s0" in note for note in report.notes)


def test_two_groups_make_two_tables_and_two_panels(tmp_path: Path) -> None:
    for preset in ("small", "tiny"):
        build_runs(tmp_path, ("baseline",), n=30, points=4, preset=preset, suites=("paper",))
    report = write_report(tmp_path, tmp_path / "report")
    assert [table.name for table in report.tables] == ["table1a", "table1a", "table1b", "table1b"]
    panels = training_panels(read_curves(tmp_path), "ifgsm5")
    assert [panel.title for panel in panels] == ["digits, preset small, linf 8/255", "digits, preset tiny, linf 8/255"]
    one, _ = write_figure(panels[:1], tmp_path / "one")
    (two,) = [path for path in report.paths if path.name == "figure2a.png"]
    assert imread(two).shape[0] == 2 * imread(one).shape[0]


def test_missing_inputs_are_said_and_leave_no_old_files(runs: Path, tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report")
    (tmp_path / "report" / "mine.txt").write_text("stays")
    build_runs(tmp_path / "runs", ("baseline",), n=30, points=4, suites=("paper",), checkpoints=("last",))
    report = write_report(tmp_path / "runs", tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"mine.txt", "report.md", *TABLES[:3], *FIGURES[:4]}
    assert [note.split(" is ")[0] for note in report.notes] == ["Table 1b", "Table 1c", "Figure 2c"]
    assert all(note in report.paths[0].read_text() for note in report.notes)


def test_records_alone_make_a_report(tmp_path: Path) -> None:
    record, samples = make_record([True, False], {"pgd5": [True, False]})
    write(replace(record, warnings=(WARNING,)), samples, tmp_path / "run")
    report = write_report(tmp_path, tmp_path / "report")
    assert [table.name for table in report.tables] == ["table1b"]
    assert any("no curves.csv" in note for note in report.notes)
    assert any(f"{WARNING.name}: {WARNING.message}" in note for note in report.notes)


def test_nothing_at_all_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"ensemble-bench train RECIPE.*ensemble-bench evaluate"):
        write_report(tmp_path, tmp_path / "report")
