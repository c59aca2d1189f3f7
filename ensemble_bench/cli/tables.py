"""Tables on the terminal: one number a cell, names that break at hyphens, rows as columns where they do not fit."""

import itertools
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ensemble_bench.records.table import Cell
    from ensemble_bench.records.table import Table as ReportTable

# Columns of a file or a pipe, which cannot say how wide they are: enough for every table.
WIDE = 160
# Rows that stand beside each other where they became columns.
ROWS_BESIDE = 4
# Columns of a report's table that fit beside each other.
COLUMNS_BESIDE = 10
# Columns of a terminal; a table of more columns that fits into these is not turned.
NARROW = 80
BETWEEN = (2, 1)  # blanks between two columns, and where room is scarce
LEAST = 8  # letters that a column of names keeps

Grid = Sequence[Sequence[str]]


def console() -> Console:
    """Stdout, as wide as the terminal is or as COLUMNS says."""
    found = Console(highlight=False)
    if not _has_width(found):
        found.width = max(found.width, WIDE)
    return found


def _has_width(out: Console) -> bool:
    return out.is_terminal or "COLUMNS" in os.environ


def say(text: str, *, indent: str = "") -> None:
    """Print a paragraph, broken between words where lines have a width; what follows its first line is indented."""
    out = console()
    if _has_width(out):
        width = max(out.width - 1, 20)
        text = textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    print(text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; the first column is text, the others are aligned right.

    Where it is wider than the terminal its rows become columns, as many beside each other as fit.
    """
    grid = [list(map(str, columns)), *([str(cell) for cell in row] for row in rows)]
    out = console()
    if _fitted(grid, out.width) is not None or len(grid) == 1:
        _draw(out, title, grid)
    else:
        _draw_turned(out, title, grid)


def show_tables(tables: "Iterable[ReportTable]") -> None:
    """Print tables of a report, each with its caption."""
    for shown in tables:
        grid, out = expanded(shown), console()
        few = len(shown.columns) <= COLUMNS_BESIDE or _natural(grid) <= NARROW
        if few and _fitted(grid, out.width) is not None:
            _draw(out, shown.title, grid)
        else:
            _draw_turned(out, shown.title, grid)
        say(shown.caption)
        print()


def expanded(shown: "ReportTable") -> list[list[str]]:
    """A report's table with one number a cell, its head first.

    The ends of intervals have columns of their own, and what varies over seeds has a row for the standard deviations.
    """
    bounded = [any(_bounds(row[at]) != ("", "") for row in shown.rows) for at in range(len(shown.columns))]
    head = [
        name
        for column, bounds in zip(shown.columns, bounded, strict=True)
        for name in ([column.removesuffix(" [95 %]"), "95 % from", "95 % to"] if bounds else [column])
    ]
    grid = [head]
    for row in shown.rows:
        grid.append(_line([_number(cell) for cell in row], [_bounds(cell) for cell in row], bounded))
        spread = [_spread(cell) for cell in row]
        if any(spread):
            # The name of the row stands above; where rows have none of seeds beside it, it says itself what it is.
            named = 1 if len(row) > 1 and isinstance(row[1], str) else 0
            spread[named] = "± sd"
            grid.append(_line(spread, [("", "")] * len(row), bounded))
    return grid


def _line(cells: Sequence[str], bounds: Sequence[tuple[str, str]], bounded: Sequence[bool]) -> list[str]:
    parts = ((cell, *ends) if has else (cell,) for cell, ends, has in zip(cells, bounds, bounded, strict=True))
    return [part for some in parts for part in some]


def _number(cell: "Cell") -> str:
    from ensemble_bench.records.table import ABSENT, Mean, Value, percent

    if isinstance(cell, Value):
        return percent(cell.accuracy)
    return f"{cell.mean:.1f}" if isinstance(cell, Mean) else ABSENT if cell is None else str(cell)


def _spread(cell: "Cell") -> str:
    from ensemble_bench.records.table import Mean, Value, percent

    if isinstance(cell, Value) and cell.sd is not None:
        return percent(cell.sd)
    return f"{cell.sd:.1f}" if isinstance(cell, Mean) and cell.sd is not None else ""


def _bounds(cell: "Cell") -> tuple[str, str]:
    from ensemble_bench.records.table import Value, percent

    if isinstance(cell, Value) and cell.ci_low is not None and cell.ci_high is not None:
        return percent(cell.ci_low), percent(cell.ci_high)
    return "", ""


def _natural(grid: Grid) -> int:
    """Columns of the terminal that a table takes without a break."""
    return sum(max(map(len, cells)) + max(BETWEEN) for cells in zip(*grid, strict=True))


def _fitted(grid: Grid, width: int) -> tuple[list[int], int] | None:
    """Letters of each column, and blanks between two, so that all fit into `width`; None where they do not.

    Heads, names and notes break at blanks and hyphens; numbers do not. Only where that is not enough do columns move
    together, and only where that is not, the names of the first column break anywhere.
    """
    cells = list(zip(*grid, strict=True))
    longest = [max(map(len, column)) for column in cells]
    heads = [max(map(len, (*_pieces(head), *others))) for head, *others in cells]
    pieces = [max([1, *(len(piece) for text in column for piece in _pieces(text))]) for column in cells]
    for least, between in itertools.product((pieces, [min(LEAST, pieces[0]), *pieces[1:]]), BETWEEN):
        room = width - between * (len(cells) - 1)
        widths = longest if sum(longest) <= room else heads
        if sum(least) <= room:
            return _shrunk(widths, least, room), between
    return None


def _shrunk(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widths, less what is too much, from the widest column that can be narrower."""
    left = list(widths)
    while sum(left) > room:
        spare = [at for at, (have, need) in enumerate(zip(left, least, strict=True)) if have > need]
        left[max(spare, key=lambda at: left[at])] -= 1
    return left


def _pieces(text: str) -> list[str]:
    """The parts of a text between which it may break: after blanks, and after hyphens and slashes inside words."""
    if re.fullmatch(r"[−+-]?[\d.,]+", text):
        return [text]
    return [piece.rstrip() for piece in re.findall(r"[^\s/-]+(?:[/-]+(?=\S)|\s+|$)|[/-]+|\s+", text)]


def broken(text: str, width: int) -> str:
    """`text` in lines of at most `width` letters, broken at blanks, hyphens and slashes, else where it has to be."""
    lines = [""]
    for piece in re.findall(r"[^\s/-]+[/-]*|[/-]+|\s+", text):
        rest = piece
        if len((lines[-1] + rest).rstrip()) > width and lines[-1].strip():
            lines.append("")
            rest = rest.lstrip()
        while len(rest.rstrip()) > width:
            lines[-1] += rest[:width]
            rest = rest[width:]
            lines.append("")
        lines[-1] += rest
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _draw(out: Console, title: str, grid: Grid) -> None:
    natural = [max(map(len, column)) for column in zip(*grid, strict=True)]
    widths, between = _fitted(grid, out.width) or (natural, max(BETWEEN))
    # On a line of its own: as the table's title it would wrap to the width of the table.
    out.print(escape(broken(title, out.width)), style="bold", soft_wrap=True)
    drawn = Table(box=SIMPLE_HEAD, padding=(0, between - 1, 0, 0), show_edge=False, pad_edge=False)
    for index, (column, width) in enumerate(zip(grid[0], widths, strict=True)):
        drawn.add_column(
            escape(broken(column, width)),
            justify="left" if index == 0 else "right",
            no_wrap=True,
            min_width=width,
            overflow="fold",
        )
    for row in grid[1:]:
        drawn.add_row(*(escape(broken(cell, width)) for cell, width in zip(row, widths, strict=True)))
    out.print(drawn)
    print()


def _draw_turned(out: Console, title: str, grid: Grid) -> None:
    """Draw a table that is too wide with its rows as columns, as many beside each other as fit."""
    head, *rows = grid
    start = 0
    while start < len(rows):
        count = ROWS_BESIDE
        while count > 1 and _fitted(_turned(head, rows[start : start + count]), out.width) is None:
            count -= 1
        _draw(out, title, _turned(head, rows[start : start + count]))
        start += count


def _turned(head: Sequence[str], rows: Grid) -> list[list[str]]:
    return [list(line) for line in zip(head, *rows, strict=True)]


def show_files(paths: Sequence[Path], *, what: str = "files", first: str = "") -> None:
    """Say where files were written: the path of one, or how many lie in which folder; `first` is to be read first."""
    if len(paths) == 1:
        print(near(paths[0]))
    elif paths:
        folder = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        begin = f"; begin with {first}" if first else ""
        say(f"{len(paths)} {what} in {near(folder)}{begin}")


def near(path: Path) -> str:
    """A path from the current folder, where it lies below it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)
