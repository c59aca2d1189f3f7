"""What evaluate and report print about records."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import WARNING, build_appendix, build_runs, build_sweep, make_record

from ensemble_bench.cli.console import show_records, show_report
from ensemble_bench.cli.tables import broken, show_tables, table
from ensemble_bench.records import SavedImages, Threat, find_records
from ensemble_bench.records.table import Table, Value
from ensemble_bench.reports import Report
from ensemble_bench.reports.verdicts import verdicts


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")


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
    shown = capsys.readouterr().out
    assert shown.startswith("Each attack meets what all before it left standing")
    lines = [line.split() for line in shown.splitlines()]
    start = lines.index(["attack", "images", "standing", "%", "broke", "passes", "time"])
    assert lines[start + 2 : start + 5] == [
        ["blackbox", "2", "0.0", "2", "–", "0", "s"],
        ["pgd20", "5", "40.0", "0", "–", "0", "s"],
        ["mora100", "5", "20.0", "1", "–", "0", "s"],
    ]
    assert [record.model, "5", "80.0", "20.0", "3.6", "62.4"] in lines
    # These attacks did not count their passes; half a second each.
    assert [record.model, "–", "1", "s"] in lines


def test_what_each_attack_took_and_what_the_saved_images_are(capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = make_record([True] * 4, {"pgd20": [True, True, False, False]}, suite="quick")
    (attack,) = record.attacks
    saved = SavedImages(format="png", hash="sha256:0", broken=2, confirmed=2, rounded=1)
    show_records([replace(record, attacks=(replace(attack, passes=12345, seconds=130.0),), images=saved)])
    text = " ".join(capsys.readouterr().out.split())
    assert "pgd20 50.0 2 12,345 2 min" in text
    assert "2 broken; asked again, the model gets 2 of them wrong, and 1 as images of 8 bits" in text


def test_of_many_cascades_what_they_left_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    attacks = {"apgd100": [True, False], "square5000": [False, False]}
    models = [f"model{i}/best" for i in range(6)]
    for count, tables in ((4, 4), (6, 0)):
        show_records([make_record([True, True], attacks, suite="quick", model=model)[0] for model in models[:count]])
        lines = lines_of(capsys)
        assert sum(line[:3] == ["attack", "standing", "%"] for line in lines) == tables
        assert [line for line in lines if line[0] in models and len(line) == 6] == [
            [model, "2", "100.0", "0.0", "0.0", "65.8"] for model in models[:count]
        ]


def test_attacks_on_the_same_images_are_a_row_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_appendix(tmp_path, "ensemble2adv", members=2, n=100)
    build_runs(tmp_path, ("singleadv", "doubleadv"), n=60, points=3, checkpoints=("best",))
    for suite, names in (("appendix", 5), ("paper", 5), ("paper500", 2)):
        records = [record for record in find_records(tmp_path) if record.suite == suite]
        show_records(records)
        shown = capsys.readouterr().out
        assert ("blackbox: on 20 of the 60 images." in shown) == (suite == "paper")
        above = [line.split() for line in shown.partition("passes and time")[0].splitlines()]
        for record in records:
            (row,) = [line for line in above if line and line[0] == record.model]
            known = [f"{100 * (attack.accuracy or 0):.1f}" for attack in record.attacks]
            known += ["–"] * (names - len(known))
            robust = record.robust
            ends = [f"{100 * value:.1f}" for value in (robust.accuracy, robust.ci_low, robust.ci_high)]
            assert row[1:] == [str(record.n), f"{100 * record.clean.accuracy:.1f}", *known, *ends]
        assert f"{len(records)} records in {tmp_path}" in shown


def test_every_eps_has_its_own_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_sweep(tmp_path, ("singleadv",), levels=(4, 8), n=30)
    show_records(find_records(tmp_path))
    lines = lines_of(capsys)
    assert {line[3] for line in lines if line[0] == "suite"} == {"4/255:", "8/255:"}
    assert sum(line[0] == "smaller-eps" for line in lines) == 1


def test_warnings_name_their_model(capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, threat=Threat(norm="l2", eps=0.5), model="mine")
    show_records([replace(record, model=name, warnings=(WARNING,)) for name in ("mine", "yours")])
    assert capsys.readouterr().out.count(f"warning: mine, yours: {WARNING.name}: {WARNING.message}\n") == 1


def test_models_of_one_name_are_told_apart_by_where_they_lie(capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, model="mine")
    places = [Path(runs, "mine/evaluations/one/record.json") for runs in ("runs", "runs/first")]
    show_records([replace(record, path=place) for place in places])
    shown = {" ".join(line[:3]).rstrip(",") for line in lines_of(capsys) if line[:1] == ["mine"]}
    assert shown == {"mine in runs", "mine in runs/first"}


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


def test_tables_fit_into_eighty_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Means, intervals and long names: nothing is cut, no number broken, and names break at their hyphens."""
    monkeypatch.setenv("COLUMNS", "80")
    value = Value(accuracy=0.256, ci_low=0.23, ci_high=0.284)
    mean = Value(accuracy=0.836, sd=0.012)
    columns = ("model", "seeds", *(f"attack{i}" for i in range(6)), "worst case [95 %]")
    name = "ensemble2adv-cifar10-jpeg-tiny-objective-adp"
    rows = ((name, "mean of 0, 1, 2", *([mean] * 7)), (name, "0", *([Value(accuracy=0.5)] * 6), value))
    keys = tuple(f"k{i}" for i in range(len(columns)))
    show_tables([Table(name="t", title="T", caption="C", columns=columns, keys=keys, rows=rows)])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    words = shown.split()
    assert (words.count("83.6"), words.count("1.2"), words.count("50.0")) == (7, 7, 6)
    assert {"25.6", "23.0", "28.4"} <= set(words)
    pieces = [word for word in words if word.startswith(("ensemble2adv", "cifar10", "jpeg", "objective"))]
    assert all(word.endswith(("-", "adp")) for word in pieces)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_of_any_width_say_all(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("model", *(f"attack{i}" for i in range(7)))
    rows = [(f"ensemble{i}adv-cifar10-jpeg-tiny-s{i}/best", *(f"{i}{j}.5" for j in range(7))) for i in range(5)]
    table("Title", columns, rows)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert {f"{i}{j}.5" for i in range(5) for j in range(7)} <= set(shown.split())


def test_names_break_at_hyphens() -> None:
    assert broken("ensemble2adv-cifar10-jpeg-tiny-s0/best", 18) == "ensemble2adv-\ncifar10-jpeg-tiny-\ns0/best"
    assert broken("mean of 0, 1, 2", 14) == "mean of 0, 1,\n2"
    assert broken("abcdefgh", 3) == "abc\ndef\ngh"
    assert broken("short", 9) == "short"
