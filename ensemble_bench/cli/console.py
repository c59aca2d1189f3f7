"""What the command line prints: tables of records and reports, and lists of names."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.progress import duration
from ensemble_bench.records import CARRIED, AttackResult, CleanScore, Record, RobustScore
from ensemble_bench.registry import plugins

if TYPE_CHECKING:
    from ensemble_bench.records.table import Table as ReportTable
    from ensemble_bench.reports import Report

# Columns of a file or a pipe, which cannot say how wide they are: enough for every table.
WIDE = 160
# Models whose names fit beside each other.
ROWS_BESIDE = 4
# Columns of a report's table that fit beside each other.
COLUMNS_BESIDE = 10
# Columns of a terminal; a table of more columns that fits into these is not turned.
NARROW = 80


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; the first column is text, the others are aligned right."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    # On a line of its own: as the table's title it would wrap to the width of the table.
    console.print(escape(title), style="bold", soft_wrap=True)
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        drawn.add_column(escape(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    console.print(drawn)


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def show_records(records: Sequence[Record]) -> None:
    """Print tables for each suite and threat, the most robust model first, then the warnings and the paths."""
    from ensemble_bench.reports.tables.credits import is_cascade

    for suite, threat in dict.fromkeys((record.suite, record.threat) for record in records):
        same = [record for record in records if (record.suite, record.threat) == (suite, threat)]
        chosen = sorted(same, key=lambda r: (-r.robust.accuracy, r.model))
        (_show_cascade if is_cascade(chosen) else _show_apart)(f"suite {suite}, {threat}", chosen)
        _show_costs(f"suite {suite}, {threat}", chosen)
    for record in records:
        for warning in record.warnings:
            print(f"warning: {record.model}: {warning.name}: {warning.message}")
    for record in records:
        if record.recapture is not None:
            print(f"recapture of {record.model}: {record.recapture}")
    for record in records:
        if (images := record.images) is not None:
            print(
                f"images of {record.model}: {images.broken} broken; asked again, the model gets {images.confirmed} of "
                f"them wrong, and {images.rounded} as images of 8 bits"
            )
    for record in records:
        if record.path is not None:
            print(record.path)


def _show_apart(title: str, records: Sequence[Record]) -> None:
    """Attacks that all met the same images: a row a model, a column an attack."""
    attacks = _attacks(records)
    rows = []
    for record in records:
        shown = [_accuracy(record, record.attack(name)) for name in attacks]
        rows.append([record.model, str(record.n), _percent(record.clean.accuracy), *shown, _worst_case(record)])
    title = f"{title}: accuracy in %, worst case over all attacks with its 95 % interval"
    columns = ["model", "n", "clean", *attacks, "worst case"]
    (table if len(columns) <= COLUMNS_BESIDE else _show_turned)(title, columns, rows)


def _show_cascade(title: str, records: Sequence[Record]) -> None:
    """Attacks that each met what those before left standing: a row an attack, a column a model."""
    title = f"{title}: % left standing after each attack in turn (images it broke that all before it missed)"
    for start in range(0, len(records), ROWS_BESIDE):
        shown = records[start : start + ROWS_BESIDE]
        attacks = _attacks(shown)
        columns = [
            [record.n, _percent(record.clean.accuracy), *_left(record, attacks), _worst_case(record)]
            for record in shown
        ]
        rows = zip(["n", "clean", *attacks, "worst case"], *columns, strict=True)
        table(title, ["", *(record.model for record in shown)], rows)


def _show_costs(title: str, records: Sequence[Record]) -> None:
    """What each attack took: a row an attack, a column a model."""
    title = f"{title}: passes (images through the model, forward or backward) and time of each attack"
    for start in range(0, len(records), ROWS_BESIDE):
        shown = records[start : start + ROWS_BESIDE]
        attacks = [name for name in _attacks(shown) if name != CARRIED]
        columns = [[*(_cost(record.attack(name)) for name in attacks), duration(record.seconds)] for record in shown]
        table(title, ["", *(record.model for record in shown)], zip([*attacks, "in all"], *columns, strict=True))


def _cost(attack: AttackResult | None) -> str:
    """Passes and seconds of an attack: "12,345 in 12 s"."""
    if attack is None:
        return "–"
    told = [f"{attack.passes:,}"] if attack.passes is not None else []
    return " in ".join([*told, duration(attack.seconds)])


def _attacks(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(attack.name for record in records for attack in record.attacks))


def _worst_case(record: Record) -> str:
    return interval(record.robust)


def interval(score: CleanScore | RobustScore) -> str:
    """An accuracy with its 95 % interval, in percent: "21.6 [18.2, 25.4]"."""
    return f"{_percent(score.accuracy)} [{_percent(score.ci_low)}, {_percent(score.ci_high)}]"


def _left(record: Record, attacks: Sequence[str]) -> list[str]:
    """Accuracy after each attack of a cascade and all before it, and how many images it broke that they missed."""
    found = map(record.attack, attacks)
    return [_accuracy(record, attack) + (f" ({attack.credit})" if attack else "") for attack in found]


def _accuracy(record: Record, attack: AttackResult | None) -> str:
    """Accuracy on the images that the attack covers, with their number where they are not all of the record's."""
    accuracy = _percent(None if attack is None else attack.accuracy)
    return accuracy if attack is None or attack.n == record.n else f"{accuracy}, n = {attack.n}"


def show_tables(tables: "Iterable[ReportTable]") -> None:
    """Print tables of a report, each with its caption."""
    for shown in tables:
        if len(shown.columns) <= COLUMNS_BESIDE or _width(shown) <= NARROW:
            table(shown.title, shown.columns, shown.text_rows())
        else:
            _show_turned(shown.title, shown.columns, shown.text_rows())
        print(f"{shown.caption}\n")


def show_or_write(shown: "ReportTable", out: Path | None) -> None:
    """Print a table with its caption or, given a folder, write it there as Markdown and CSV and print the paths."""
    from ensemble_bench.files import write_atomic
    from ensemble_bench.records.table import to_csv, to_markdown

    if out is None:
        table(shown.title, shown.columns, shown.text_rows())
        print(shown.caption)
        return
    for suffix, text in ((".md", to_markdown([shown])), (".csv", to_csv([shown]))):
        write_atomic(out / f"{shown.name}{suffix}", text)
        print(out / f"{shown.name}{suffix}")


def _width(shown: "ReportTable") -> int:
    """Columns of the terminal that a table takes."""
    columns = zip(shown.columns, *shown.text_rows(), strict=True)
    return sum(2 + max(map(len, cells)) for cells in columns)


def show_report(report: "Report") -> None:
    """Print the tables and verdicts, then the paths of all that was written."""
    show_tables(report.tables)
    for where in dict.fromkeys(verdict.where for verdict in report.verdicts):
        lines = [verdict for verdict in report.verdicts if verdict.where == where]
        print(f"{where}:", *(f"  {verdict}" for verdict in lines), "", sep="\n")
    for line in (*report.notes, *report.paths):
        print(line)


def _show_turned(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that is too wide with its rows as columns, few beside each other."""
    for start in range(0, len(rows), ROWS_BESIDE):
        first, *others = zip(columns, *rows[start : start + ROWS_BESIDE], strict=True)
        table(title, first, others)


def show_names(title: str, kind: str) -> None:
    """Print the names of a kind, with what each stands for."""
    print(f"{title}:")
    shown = {_label(kind, name): name for name in registry.names(kind)}
    width = max(map(len, shown))
    for label, name in shown.items():
        print(f"  {label.ljust(width)}  {_describe(kind, name)}")


def _label(kind: str, name: str) -> str:
    """The name, and an N where an attack takes a number of steps, in brackets where it may."""
    if kind != "attack":
        return name
    if name not in registry.ATTACKS:
        return f"{name}[N]"
    return f"{name}N" if registry.ATTACKS[name].takes_steps else name


def _describe(kind: str, name: str) -> str:
    """What a name stands for, and the package that adds it; what is wrong with it where it cannot be used."""
    try:
        registry.check(kind, name)
        card = registry.KINDS[kind].get(name)
        if isinstance(card, registry.Card) and card.description:
            return card.description
        found = registry.resolve(kind, name)
    except InvalidValueError as error:
        return f"broken: {error}"
    if kind in ("recipe", "preset"):
        about = str(found.description)
    elif kind == "suite":
        about = f"{found.description} ({', '.join(found.attacks)})"
    else:
        about = (found.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return f"{about} (from {plugins.origin(kind, name)})" if name in plugins.names(kind) else about
