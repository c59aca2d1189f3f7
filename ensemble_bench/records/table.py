"""A table as data, and its renderings as Markdown, CSV and LaTeX, which round the numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ensemble_bench.errors import RecordError
from ensemble_bench.records.csv_text import csv_text
from ensemble_bench.records.markup import markdown
from ensemble_bench.records.record import CleanScore, RobustScore
from ensemble_bench.records.text import fraction, quantity

ABSENT = "–"
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "≥": r"$\geq$",
    "–": "--",
    "×": r"$\times$",
}


@dataclass(frozen=True, kw_only=True)
class Value:
    """An accuracy as a fraction in [0, 1], with the spread over seeds or the ends of its 95 % interval."""

    accuracy: float
    sd: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None

    @classmethod
    def of(cls, score: CleanScore | RobustScore) -> "Value":
        """The accuracy of a record's score, with its interval."""
        return cls(accuracy=score.accuracy, ci_low=score.ci_low, ci_high=score.ci_high)

    def __str__(self) -> str:
        text = percent(self.accuracy)
        if self.sd is not None:
            text += f" ± {percent(self.sd)}"
        if self.ci_low is not None and self.ci_high is not None:
            text += f" [{percent(self.ci_low)}, {percent(self.ci_high)}]"
        return text


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of a count over seeds, with its spread."""

    mean: float
    sd: float | None = None

    def __str__(self) -> str:
        digits = 1 if self.mean < 1000 else 0
        return f"{self.mean:,.{digits}f}" + ("" if self.sd is None else f" ± {self.sd:,.{digits}f}")


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A large count that readers see rounded, with its prefix: "48.2 M"."""

    count: int

    def __str__(self) -> str:
        return quantity(self.count)


Cell = str | int | Value | Mean | Amount | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Title, caption, the names of the columns and the rows; `about` holds what is the same for every row.

    `columns` are for readers, `keys` (one a column) for programs: they head the CSV.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in (self.keys, *self.rows):
            if len(row) != len(self.columns):
                raise RecordError(f"table {self.name}: expected {len(self.columns)} cells in a row, got {len(row)}")

    def text_rows(self) -> tuple[tuple[str, ...], ...]:
        """Return the rows as texts: accuracies in percent with one decimal, counts with their thousands apart."""
        return tuple(tuple(_text(cell) for cell in row) for row in self.rows)


def _text(cell: Cell) -> str:
    if cell is None:
        return ABSENT
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def percent(value: float) -> str:
    """Return a fraction as percent with one decimal, without the sign."""
    return f"{100 * value:.1f}"


def to_markdown(tables: Iterable[Table]) -> str:
    """Render tables as Markdown, each under its title and its caption."""
    return "\n".join(_markdown(table) for table in tables)


def to_csv(tables: Sequence[Table]) -> str:
    """Render tables of one name as one CSV, accuracies as fractions with 4 decimals.

    Columns that tell the tables apart come first; what has a spread or an interval takes further columns
    (…_sd, …_ci_low, …_ci_high).
    """
    rows = [_flat(table, row) for table in tables for row in table.rows]
    columns: dict[str, None] = {}
    for table in tables:
        columns |= dict.fromkeys(table.about)
    for key in dict.fromkeys(key for table in tables for key in table.keys):
        columns |= dict.fromkeys(k for k in _parts(key) if k == key or any(k in row for row in rows))
    return csv_text([columns, *([row.get(column, "") for column in columns] for row in rows)])


def to_latex(tables: Sequence[Table]) -> str:
    """Render tables as LaTeX table environments in the manner of booktabs, each with a label of its own."""
    parts = [_latex(table, label) for table, label in zip(tables, _labels(tables), strict=True)]
    return "\n".join(["% \\usepackage{booktabs}", "", *parts])


def _labels(tables: Sequence[Table]) -> list[str]:
    """The name of each table and, where there are several, as much as tells them apart: "tab:table1b-digits-tiny"."""
    keys = dict.fromkeys(key for table in tables for key in table.about)
    telling = [key for key in keys if len({table.about.get(key) for table in tables}) > 1]
    labels = list[str]()
    for count in range(len(telling) + 1):
        texts = ["-".join([table.name, *(table.about.get(key, "") for key in telling[:count])]) for table in tables]
        labels = ["tab:" + re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") for text in texts]
        if len(set(labels)) == len(labels):
            break
    return [
        label if labels.count(label) == 1 else f"{label}-{labels[: at + 1].count(label)}"
        for at, label in enumerate(labels)
    ]


def _markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rules = [":--" if _is_text(table, i) else "--:" for i in range(len(table.columns))]
    # What others wrote must not become markup: names of models, attacks and data stand in all of these.
    head, *rows = (map(markdown, row) for row in (table.columns, *table.text_rows()))
    body = [line(head), line(rules), *map(line, rows)]
    return "\n".join([f"### {markdown(table.title)}", "", markdown(table.caption, line=True), "", *body, ""])


def _latex(table: Table, label: str) -> str:
    def line(cells: Iterable[str]) -> str:
        text = " & ".join(map(_escape, cells)) + r" \\"
        return f"{{}}{text}" if text.startswith(("[", "*")) else text  # arguments of the \\ that ends the row before

    align = "".join("l" if _is_text(table, i) else "r" for i in range(len(table.columns)))
    title = _escape(table.title)
    # What the table is of stands above it, how to read it below.
    about, _, notes = table.caption.partition(". ")
    below = [rf"\\[3pt] \parbox{{\linewidth}}{{\footnotesize {_escape(notes)}}}"] if notes else []
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption[{{{title}}}]{{{title}. {_escape(about.removesuffix('.'))}.}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *map(line, table.text_rows()),
            r"\bottomrule",
            r"\end{tabular}",
            *below,
            r"\end{table}",
            "",
        ]
    )


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _is_text(table: Table, column: int) -> bool:
    return any(isinstance(row[column], str) for row in table.rows)


def _parts(key: str) -> tuple[str, ...]:
    return key, f"{key}_sd", f"{key}_ci_low", f"{key}_ci_high"


def _flat(table: Table, row: tuple[Cell, ...]) -> dict[str, str]:
    """Return a row as the CSV holds it: one text a column, absent parts left out."""
    flat = dict(table.about)
    for key, cell in zip(table.keys, row, strict=True):
        if isinstance(cell, Value):
            parts = zip(_parts(key), (cell.accuracy, cell.sd, cell.ci_low, cell.ci_high), strict=True)
            flat |= {name: fraction(value) for name, value in parts if value is not None}
        elif isinstance(cell, Mean):
            flat |= {key: fraction(cell.mean)} | ({} if cell.sd is None else {f"{key}_sd": fraction(cell.sd)})
        elif isinstance(cell, Amount):
            flat[key] = str(cell.count)
        elif cell is not None:
            flat[key] = str(cell)
    return flat
