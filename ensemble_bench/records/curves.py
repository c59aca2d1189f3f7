"""curves.csv: one row an evaluation point of training, rewritten atomically, so that no reader sees half a row."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic

ATTACKS = ("ifgsm5", "ifgsm7", "pgd5", "pgd20")
"""Attacks on the validation images at every evaluation point."""
CURVE_COLUMNS = ("step", "epoch", "clean", *ATTACKS, "loss", "lr", "seconds")
Row = Mapping[str, float]


def read(path: Path) -> list[Row]:
    """Rows of a curves.csv, none if it does not exist; raises RecordError where it is not one."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != CURVE_COLUMNS:
            raise RecordError(f"{path}: expected the columns {','.join(CURVE_COLUMNS)}")
        try:
            return [
                {name: int(row[name]) if name == "step" else float(row[name]) for name in CURVE_COLUMNS}
                for row in reader
            ]
        except (TypeError, ValueError):
            raise RecordError(f"{path}: row {reader.line_num} does not hold {len(CURVE_COLUMNS)} numbers") from None


def write(path: Path, rows: list[Row]) -> None:
    """Write the rows; floats keep all of their digits, so that reading gives them back."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CURVE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
