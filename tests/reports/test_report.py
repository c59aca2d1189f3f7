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
from synthetic_runs import WARNING, build_appendix, build_runs, build_sweep, make_record, result_of, write

from ensemble_bench.errors import RecordError, UnknownNameError
from ensemble_bench.records import find_records
from ensemble_bench.reports import Report, parts_of, write_report
from ensemble_bench.reports.figures.figure2 import attack_panels, training_panels
from ensemble_bench.reports.figures.lines import write_figure
from ensemble_bench.reports.training_curves import read_curves

NO_VERDICT = (
    "No verdict on capacity-2, capacity-4, ensembling-alone-2, ensembling-alone-4, members-2, wider-2, wider-4, "
    "apart-2, apart-4, cause-attacked, cause-learned, cause-interaction: no records of baseline, ensemble2, ensemble4, "
    "singleadv, doubleadv, quadadv, ensemble4adv, jointattack2adv, jointloss2adv, separate2adv, separate4adv"
)
RECIPES = ("singleadv", "doubleadv", "ensemble2adv", "separate2adv")
TABLES = [f"table1{part}.{suffix}" for part in "abc" for suffix in ("md", "csv", "tex")]
FIGURES = [f"figure2{part}.{suffix}" for part in "abc" for suffix in ("png", "pdf")]
TABLE_2 = [f"table2.{suffix}" for suffix in ("md", "csv", "tex")]
SUITES = [f"suites.{suffix}" for suffix in ("md", "csv", "tex")]
CREDITS = [f"credits.{suffix}" for suffix in ("md", "csv", "tex")]
FIGURE_3 = ["figure3.png", "figure3.pdf"]
PAPER = [f"beside_paper.{suffix}" for suffix in ("md", "csv", "tex")]
BESIDE = ["beside_paper"] * 3  # Tables 1a, 1b, 1c; Table 2 of the paper is of another ensemble
COSTS = [f"cost_table.{suffix}" for suffix in ("md", "csv", "tex")]  # of one recipe: there is no figure
CURVE = [f"robustness_curve.{suffix}" for suffix in ("png", "pdf", "csv")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recipes with two seeds; one of them also under the suites appendix and, at several eps, strongest."""
    root = build_runs(tmp_path_factory.mktemp("runs"), RECIPES, seeds=(0, 1), n=90, points=12)
    build_sweep(root, ("ensemble2adv",), levels=(4, 8), n=60)
    return build_appendix(root, "ensemble2adv", members=2, n=60)


@pytest.fixture(scope="module")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Report of these runs."""
    return write_report(runs, tmp_path_factory.mktemp("report"))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_everything_is_written_and_named(report: Report) -> None:
    names = ["report.md", *TABLES, *FIGURES, *TABLE_2, *COSTS, *SUITES, *CREDITS, *FIGURE_3, *PAPER, *CURVE]
    assert sorted(path.name for path in report.paths) == sorted(names)
    assert all(path.stat().st_size > 100 for path in report.paths)
    names = ["table1a", "table1b", "table1c", "table2", "cost_table", "suites", "suites", "credits", "credits", *BESIDE]
    assert [t.name for t in report.tables] == names
    assert report.verdicts == ()  # test_verdicts.py has runs under the suites that decide
    notes = [note.partition(" (")[0] for note in report.notes]
    assert notes[0].startswith("The figure of costs is left out: no two recipes of adversarial training")
    assert notes[1:] == ["No verdict under suite quick: no record of a claim's recipe under it.", NO_VERDICT]
    assert report.notes[2].endswith("linf 4/255, suite strongest, test split; and 1 more).")  # at two eps


def test_the_page_holds_tables_and_figures(report: Report) -> None:
    page = report.paths[0].read_text()
    for table in report.tables:
        assert f"### {table.title}\n\n{table.caption}\n" in page
    assert all(f"]({name})" in page for name in [*FIGURES, *FIGURE_3, *PAPER, *CURVE] if name.endswith("png"))


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
    assert {name.partition(".")[0] for name in different} == {
        "table1a",
        "figure2a",
        "figure2b",
        "beside_paper",
        "report",
    }


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
    mean, sd = np.mean(seeds, axis=0), np.std(seeds, axis=0, ddof=1)
    assert panel.lines[1].band == (pytest.approx(mean - sd), pytest.approx(mean + sd))
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
    assert [table.name for table in report.tables] == [
        "table1a",
        "table1a",
        "table1b",
        "table1b",
        *["beside_paper"] * 4,
    ]
    panels = training_panels(read_curves(tmp_path), "ifgsm5")
    settings = [
        f"digits, preset {preset}, linf 8/255, ifgsm5, validation images, n = 144" for preset in ("small", "tiny")
    ]
    assert [panel.setting for panel in panels] == settings
    assert all(panel.title == f"baseline ends at {100 * panel.lines[0].y[-1]:.1f} %" for panel in panels)
    one, _ = write_figure(panels[:1], tmp_path / "one")
    (two,) = [path for path in report.paths if path.name == "figure2a.png"]
    assert imread(two).shape[0] == 2 * imread(one).shape[0]


def test_missing_inputs_are_said_and_leave_no_old_files(runs: Path, tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report")
    (tmp_path / "report" / "mine.txt").write_text("stays")
    build_runs(tmp_path / "runs", ("baseline",), n=30, points=4, suites=("paper",), checkpoints=("last",))
    report = write_report(tmp_path / "runs", tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        "mine.txt",
        "report.md",
        *TABLES[:6],
        *FIGURES,
        *PAPER,
    }  # of a run without best weights stand the last
    assert [note.partition(" left out: ")[0] for note in report.notes] == [
        *("Table 1c is", "Table 2 is", "Figure 3 is", "Costs are", "The figure of costs is"),
        *("Tables of other suites are", "Credits are", "The robustness curve is"),
        "No verdict under suite quick: no record of a claim's recipe under it.",
        "No verdict under suite strongest: no record of a claim's recipe under it.",
    ]
    assert all(note in report.paths[0].read_text() for note in report.notes)


def test_records_alone_make_a_report(tmp_path: Path) -> None:
    record, samples = make_record([True, False], {"pgd5": [True, False]})
    write(replace(record, warnings=(WARNING,)), samples, tmp_path / "run")
    report = write_report(tmp_path, tmp_path / "report")
    assert [table.name for table in report.tables] == ["table1b", "beside_paper"]
    assert any("no curves.csv" in note for note in report.notes)
    assert any(f"{WARNING.name}: {WARNING.message}" in note for note in report.notes)


def test_nothing_at_all_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"ensemble-bench train RECIPE.*ensemble-bench evaluate"):
        write_report(tmp_path, tmp_path / "report")


@pytest.mark.parametrize(
    ("tables", "figures", "parts"),
    [
        ((), (), None),
        (("2",), (), {"table2"}),
        ((), ("3",), {"figure3"}),
        (("1",), (), {"table1a", "table1b", "table1c"}),
        (
            ("2", "credits"),
            ("2", "eps"),
            {"table2", "credits", "alone", "figure2a", "figure2b", "figure2c", "robustness_curve"},
        ),
    ],
)
def test_tables_and_figures_are_chosen_by_number(
    tables: tuple[str, ...], figures: tuple[str, ...], parts: set[str] | None
) -> None:
    assert parts_of(tables, figures) == parts


def test_unknown_parts_are_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown table '3': choose from 1, 2, classes, cost, credits, paper, "):
        parts_of(tables=["3"])
    with pytest.raises(UnknownNameError, match="unknown figure '1': choose from 2, 3, cost, eps"):
        parts_of(figures=["1"])
    with pytest.raises(UnknownNameError, match="unknown part of a report 'table3': did you mean table2"):
        write_report(Path("nowhere"), Path("nowhere"), parts=["table3"])


def test_a_part_alone_is_the_same_and_leaves_the_others(runs: Path, report: Report, tmp_path: Path) -> None:
    (tmp_path / "table1a.md").write_text("stays")
    (tmp_path / "report.md").write_text("stays")
    alone = write_report(runs, tmp_path, parts=parts_of(["2"], ["3"]))
    assert sorted(path.name for path in alone.paths) == sorted([*TABLE_2, *FIGURE_3])
    assert [table.name for table in alone.tables] == ["table2"]
    assert (alone.verdicts, alone.notes) == ((), ())
    whole = hashes(report.paths[0].parent)
    assert hashes(tmp_path) == {name: whole[name] for name in [*TABLE_2, *FIGURE_3]} | {
        name: hashlib.sha256(b"stays").hexdigest() for name in ("table1a.md", "report.md")
    }


def test_a_part_without_inputs_says_what_makes_it(tmp_path: Path) -> None:
    build_runs(tmp_path / "runs", ("baseline",), n=30, points=4, suites=("paper",))
    for chosen, wanted in (
        (parts_of(["2"]), "Table 2 is left out.*--suite appendix"),
        (parts_of([], ["3"]), "Figure 3 is left out.*--suite appendix"),
        (parts_of([], ["eps"]), "robustness curve is left out.*--eps 4/255,8/255"),
        (parts_of(["credits"]), "Credits are left out.*--suite strongest"),
    ):
        with pytest.raises(RecordError, match=wanted):
            write_report(tmp_path / "runs", tmp_path / "report", parts=chosen)
    assert not (tmp_path / "report").exists()
    report = write_report(tmp_path / "runs", tmp_path / "report", parts=parts_of(["1", "2"]))
    assert [note.split(" is ")[0] for note in report.notes] == ["Table 1c", "Table 2"]


def test_parts_of_models_and_carried_images_stay_out_of_figure_2c(tmp_path: Path) -> None:
    build_runs(tmp_path, ("singleadv", "ensemble2adv"), n=60, points=3)
    records = find_records(tmp_path)
    (panel,) = attack_panels(records)
    members = [replace(record, view="member1", recipe="quadadv") for record in records]
    assert attack_panels(members) == []
    carried = make_record([True] * 60, {"smaller-eps": [True] * 50 + [False] * 10})[0].attacks[0]
    carried = replace(carried, settings={"eps": 4 / 255})
    others = [replace(record, attacks=(carried, *record.attacks), recipe="doubleadv") for record in records]
    (again,) = attack_panels([*records, *members, *others])
    assert [line.label for line in again.lines] == [line.label for line in panel.lines]
    assert again.omitted == ()
