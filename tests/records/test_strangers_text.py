"""What somebody else named is a text in every table and page, and has one spelling."""

import csv
import io
import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from synthetic_runs import make_record

from ensemble_bench.leaderboard import leaderboard_csv
from ensemble_bench.records.csv_text import csv_text
from ensemble_bench.records.markup import markdown
from ensemble_bench.records.table import Table, to_csv, to_markdown
from ensemble_bench.records.text import natural
from ensemble_bench.records.threat import parse_eps

FORMULAS = [
    '=HYPERLINK("http://evil.example","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
    "-",
    "+-1",
]
NUMBERS = ["-0.0123", "+5", "1e-6", "-1.5e+3", ".5", "0.3333"]
MARKUP = [
    "# A heading",
    "[a link](https://evil.example)",
    "[a link][x]",
    "[x]: https://evil.example",
    "![an image](https://evil.example/x.png)",
    "<https://evil.example>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; &amp; &#42;",
    "*emphasis* and _emphasis_ and __strong__ and **strong** and ~~gone~~",
    "`code` and \\`more\\`",
    "- an item",
    "+ an item",
    "* an item",
    "1. an item",
    "12) an item",
    "> a quotation",
    "===",
    "---",
    "    indented",
    "a | cell | more",
    "two\n\n# lines",
    "ensemble2adv_digits_tiny",
    "A. Uthor, B. O'Ther (2020)",
]


def shown(text: str) -> tuple[list[str], str]:
    """Kinds of the elements that Markdown makes of a text, and what it shows."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = [token for outer in parser.parse(text) for token in (outer, *(outer.children or ()))]
    kinds = sorted({token.type for token in tokens} - {"text", "inline", "text_special"})
    return kinds, "".join(token.content for token in tokens if token.type in ("text", "text_special"))


@pytest.mark.parametrize("text", MARKUP)
def test_markdown_shows_a_strangers_text_as_it_is(text: str) -> None:
    told = " ".join(text.split())
    assert shown(markdown(text, line=True)) == (["paragraph_close", "paragraph_open"], told)
    table = f"| a | b |\n|---|---|\n| {markdown(text)} | end |\n"
    kinds, said = shown(table)
    assert all(kind.startswith(("table", "thead", "tbody", "tr", "th", "td")) for kind in kinds)
    assert said == f"ab{told}end"


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    table = Table(name="t", title="T", caption="", columns=("a",), keys=("a",), rows=((text,),), about={"b": text})
    record, _ = make_record([True], {"pgd5": [True]}, model=text, recipe=text)
    for told in (csv_text([[text]]), to_csv([table]), leaderboard_csv([replace(record, device=text)])):
        cells = [cell for row in csv.reader(io.StringIO(told, newline="")) for cell in row]
        assert f"'{' '.join(text.splitlines())}" in cells
        assert not [cell for cell in cells if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay_numbers(text: str) -> None:
    assert csv_text([[text, float(text)]]) == f"{text},{float(text)}\n"


def test_a_table_holds_no_markup_but_its_own() -> None:
    table = Table(name="t", title="T", caption="", columns=("a",), keys=("a",), rows=(("[x](http://y) # *z*",),))
    assert to_markdown([table]).splitlines()[-1] == r"| [x\](http://y) # \*z\* |"


@pytest.mark.parametrize("text", MARKUP)
def test_nor_do_its_title_its_caption_and_the_names_of_its_columns(text: str) -> None:
    told = " ".join(text.split())
    table = Table(name="t", title=f"T {text}", caption=text, columns=(text,), keys=("a",), rows=((1,),))
    kinds, said = shown(to_markdown([table]))
    assert said == f"T {told}{told}{told}1"
    own = ("heading", "paragraph", "table", "thead", "tbody", "tr", "th", "td")
    assert {kind.rpartition("_")[0] for kind in kinds} == set(own)


def test_digits_of_other_scripts_are_no_numbers() -> None:
    assert natural("pgd２0") == [(False, 0, "pgd２"), (True, 0, "0")]
    assert natural("x²") == [(False, 0, "x²")]
    assert sorted(["pgd500", "pgd20"], key=natural) == ["pgd20", "pgd500"]
    for text in ("８/255", "8/２55", "0_1", "1_0/255"):
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            parse_eps(text)
