"""What evaluate and report print about records."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import WARNING, build_appendix, build_runs, build_sweep, make_record

from ensemble_bench.cli.console import show_records, show_report, show_tables
from ensemble_bench.records import SavedImages, Threat, find_records
from ensemble_bench.records.table import Table
from ensemble_bench.reports import Report
from ensemble_bench.reports.verdicts import verdicts


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Printed lines in words, without the empty ones and the rules."""
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    return [line for line in words if line and not line[0].startswith("─")]


def test_a_cascade_says_what_each_attack_broke(capsys: pytest.CaptureFixture[str]) -> None:
    """Five images, four right when clean; the black-box set has two of them."""
    attacks = {
        "blackbox": [None, None, False, False, None],
        "pgd20": [True, True, False, False, False],
        "mora100": [True, False, False, False, False],
    }
    record, _ = make_record([True] * 4 + [False], attacks, suite="strongest", recipe="ensemble2adv")
    show_records([record])
    lines = lines_of(capsys)
    start = lines.index(["ensemble2adv-digits-tiny-s0/best"])
    title = " ".join(word for line in lines[:start] for word in line)
    assert title.startswith("suite strongest, linf 8/255: % left standing after each attack in turn")
    assert lines[start + 1 : start + 7] == [
        ["n", "5"],
        ["clean", "80.0"],
        ["blackbox", "0.0,", "n", "=", "2", "(2)"],
        ["pgd20", "40.0", "(0)"],
        ["mora100", "20.0", "(1)"],
        ["worst", "case", "20.0", "[3.6,", "62.4]"],
    ]
    costs = lines[start + 7 :]
    assert " ".join(costs[0]).startswith("suite strongest, linf 8/255: passes (images through the model")
    # These attacks did not count their passes; half a second each.
    assert costs[-4:] == [["blackbox", "0", "s"], ["pgd20", "0", "s"], ["mora100", "0", "s"], ["in", "all", "1", "s"]]


def test_what_each_attack_took_and_what_the_saved_images_are(capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = make_record([True] * 4, {"pgd20": [True, True, False, False]}, suite="quick")
    (attack,) = record.attacks
    saved = SavedImages(format="png", hash="sha256:0", broken=2, confirmed=2, rounded=1)
    show_records([replace(record, attacks=(replace(attack, passes=12345, seconds=130.0),), images=saved)])
    text = " ".join(capsys.readouterr().out.split())
    assert "pgd20 12,345 in 2 min" in text
    assert "2 broken; asked again, the model gets 2 of them wrong, and 1 as images of 8 bits" in text


def test_cascades_of_many_models_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    attacks = {"apgd100": [True, False], "square5000": [False, False]}
    models = [f"model{i}/best" for i in range(6)]
    show_records([make_record([True, True], attacks, suite="quick", model=model)[0] for model in models])
    headers = [line for line in lines_of(capsys) if line[0].startswith("model")]
    assert headers == 2 * [models[:4], models[4:]]


def test_attacks_on_the_same_images_are_a_row_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_appendix(tmp_path, "ensemble2adv", members=2, n=100)
    build_runs(tmp_path, ("singleadv",), n=60, points=3, checkpoints=("best",))
    for suite, names in (("appendix", 5), ("paper", 5), ("paper500", 2)):
        records = [record for record in find_records(tmp_path) if record.suite == suite]
        show_records(records)
        lines = lines_of(capsys)
        above = lines[: next(i for i, line in enumerate(lines) if "passes" in line)]  # what they took stands below
        for record in records:
            (row,) = [line for line in above if line[0] == record.model]
            known = [f"{100 * (attack.accuracy or 0):.1f}" for attack in record.attacks]
            if record.suite == "paper":
                known[-1:] = [f"{known[-1]},", "n", "=", "20"]
            known += ["–"] * (names - len(known))
            assert row[1:-3] == [str(record.n), f"{100 * record.clean.accuracy:.1f}", *known]
            assert row[-3] == f"{100 * record.robust.accuracy:.1f}"
            assert [str(record.path)] in lines


def test_every_eps_has_its_own_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_sweep(tmp_path, ("singleadv",), levels=(4, 8), n=30)
    show_records(find_records(tmp_path))
    lines = lines_of(capsys)
    assert {line[3] for line in lines if line[0] == "suite"} == {"4/255:", "8/255:"}
    assert sum(line[0] == "smaller-eps" for line in lines) == 1


def test_warnings_name_their_model(capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, threat=Threat(norm="l2", eps=0.5), model="mine")
    show_records([replace(record, warnings=(WARNING,))])
    assert f"warning: mine: {WARNING.name}: {WARNING.message}\n" in capsys.readouterr().out


def test_verdicts_stand_under_what_they_were_measured_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for preset in ("small", "tiny"):
        recipes = ("singleadv", "ensemble2adv")
        build_runs(tmp_path, recipes, n=60, points=3, preset=preset, suites=("quick",), checkpoints=("best",))
    found = verdicts(find_records(tmp_path))
    assert len({verdict.where for verdict in found}) == 2
    show_report(Report(tables=(), verdicts=tuple(found), paths=(tmp_path,), notes=("a note",)))
    shown = capsys.readouterr().out
    assert all(f"{verdict.where}:\n  {verdict}\n" in shown for verdict in found)
    assert shown.endswith(f"a note\n{tmp_path}\n")


def test_a_table_of_many_narrow_columns_is_not_turned(capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(map(str, range(10)))
    rows = tuple((name, *range(10)) for name in names)
    show_tables([Table(name="t", title="T", caption="C", columns=("class", *names), keys=("class", *names), rows=rows)])
    lines = lines_of(capsys)
    assert lines[1:-1] == [["class", *names], *([name, *names] for name in names)]


def test_wide_tables_are_turned(capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(f"apgd{i}" for i in range(1, 12))
    rows = tuple((f"model{i}", *([str(i)] * 11)) for i in range(5))
    wide = Table(name="t", title="Title", caption="", columns=("model", *names), keys=("model", *names), rows=rows)
    show_report(Report(tables=(wide,), verdicts=(), paths=(), notes=()))
    lines = lines_of(capsys)
    assert ["model", "model0", "model1", "model2", "model3"] in lines
    assert lines.count(["apgd11", "0", "1", "2", "3"]) == lines.count(["apgd11", "4"]) == 1
    narrow = Table(name="t", title="Title", caption="", columns=("model", "a"), keys=("model", "a"), rows=(("x", "1"),))
    show_report(Report(tables=(narrow,), verdicts=(), paths=(), notes=()))
    assert ["x", "1"] in lines_of(capsys)
