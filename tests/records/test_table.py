"""Renderings of one small table, written out by hand."""

import csv
import io
import re
from dataclasses import replace

import pytest

from ensemble_bench.errors import RecordError
from ensemble_bench.records import RobustScore
from ensemble_bench.records.table import Table, Value, to_csv, to_latex, to_markdown

TABLE = Table(
    name="t",
    title="Table",
    caption="50 % of a_b.",
    columns=("model", "clean", "worst case"),
    keys=("model", "clean", "worst_case"),
    rows=(
        ("a_1", Value(accuracy=0.5, sd=0.0126), Value(accuracy=1 / 3, ci_low=0.25, ci_high=0.45)),
        ("b|c", None, Value(accuracy=1.0)),
    ),
    about={"data_name": "digits"},
)


def test_markdown() -> None:
    assert to_markdown([TABLE]) == (
        "### Table\n\n50 % of a_b.\n\n"
        "| model | clean | worst case |\n"
        "| :-- | --: | --: |\n"
        "| a_1 | 50.0 ± 1.3 | 33.3 [25.0, 45.0] |\n"
        "| b\\|c | – | 100.0 |\n"
    )


def test_csv_holds_fractions_with_four_decimals() -> None:
    assert to_csv([TABLE]) == (
        "data_name,model,clean,clean_sd,worst_case,worst_case_ci_low,worst_case_ci_high\n"
        "digits,a_1,0.5000,0.0126,0.3333,0.2500,0.4500\n"
        "digits,b|c,,,1.0000,,\n"
    )


def test_csv_of_several_tables_has_the_columns_of_all() -> None:
    other = Table(
        name="t",
        title="",
        caption="",
        columns=("model", "new"),
        keys=("model", "new"),
        rows=(("d", Value(accuracy=0.1)),),
    )
    rows = list(csv.DictReader(io.StringIO(to_csv([TABLE, other]))))
    assert [row["model"] for row in rows] == ["a_1", "b|c", "d"]
    assert (rows[2]["new"], rows[2]["clean"], rows[2]["data_name"], rows[0]["new"]) == ("0.1000", "", "", "")


def test_a_score_is_shown_with_its_interval() -> None:
    score = RobustScore(robust=3, n=9, accuracy=1 / 3, ci_low=0.25, ci_high=0.45)
    assert (Value.of(score), str(Value.of(score))) == (TABLE.rows[0][2], "33.3 [25.0, 45.0]")


def test_latex_is_escaped() -> None:
    text = to_latex([TABLE])
    assert r"\caption[{Table}]{Table. 50 \% of a\_b.}" in text
    assert [line for line in text.splitlines() if line.startswith(r"\label")] == [r"\label{tab:t}"]
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\hline")] == [1, 1, 1, 0]
    assert r"\begin{tabular}{lrr}" in text
    assert r"a\_1 & 50.0 $\pm$ 1.3 & 33.3 [25.0, 45.0] \\" in text
    assert r"b\textbar{}c & -- & 100.0 \\" in text
    assert text.count("{") == text.count("}")


def test_no_name_is_a_command_or_another_character_in_latex() -> None:
    """A row's end takes what follows in brackets, or a star, as its argument; the default font has dashes for bars."""
    rows = tuple((name, None, None) for name in ("[3pt]", "*", "<a>|b"))
    lines = to_latex([replace(TABLE, rows=rows)]).splitlines()
    start = lines.index(r"\midrule")
    told = [r"{}[3pt] & -- & -- \\", r"{}* & -- & -- \\", r"\textless{}a\textgreater{}\textbar{}b & -- & -- \\"]
    assert lines[start + 1 : start + 4] == told


def test_latex_captions_are_short_and_labels_tell_tables_apart() -> None:
    caption = "digits, linf 8/255, n = 5. Accuracies in percent. More."
    tables = [
        replace(TABLE, caption=caption, about={"data_name": "d", "threat": threat})
        for threat in ("l2 0.5", "linf 8/255")
    ]
    text = to_latex([*tables, tables[0]])
    assert text.count(r"{Table. digits, linf 8/255, n = 5.}") == 3
    assert text.count(r"{\footnotesize Accuracies in percent. More.}") == 3
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert labels == ["tab:t-l2-0-5-1", "tab:t-linf-8-255", "tab:t-l2-0-5-2"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(RecordError, match="expected 2 cells in a row, got 1"):
        Table(name="t", title="", caption="", columns=("a", "b"), keys=("a", "b"), rows=(("x",),))
