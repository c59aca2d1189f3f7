"""CSV, as all tables of this package are written: what somebody else named is a text for every reader of it."""

import csv
import io
import re
from collections.abc import Iterable

FORMULA = ("=", "+", "-", "@", "\t")
"""What a cell begins with that spreadsheets compute."""
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, each on a line.

    A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers do not.
    """
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return sink.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = " ".join(value.splitlines())  # a line end that is not quoted begins a row for other readers
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) and not _NUMBER.fullmatch(text) else text
