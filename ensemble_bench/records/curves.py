"""curves.csv: one row an evaluation point of training, rewritten atomically, so that no reader sees half a row."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic

ATTACKS = ("ifgsm5", "ifgsm7", "pgd5", "pgd20")
"""Attacks on the validation images at every evaluation point."""
ONE_STEP, MULTI_STEP = "fgsm", "pgd20"
"""Their accuracies part where a network overfits catastrophically; FGSM is a single step of eps from the image itself
(Goodfellow et al. 2015)."""
CURVE_COLUMNS = ("step", "epoch", "clean", ONE_STEP, *ATTACKS, "loss", "lr", "seconds")
# Files of earlier versions.
WITHOUT_ONE_STEP = tuple(name for name in CURVE_COLUMNS if name != ONE_STEP)
Row = Mapping[str, float]


def read(path: Path) -> list[Row]:
    """Rows of a curves.csv, none if it does not exist; raises RecordError where it is not one."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        columns = tuple(reader.fieldnames or ())
        if columns not in (CURVE_COLUMNS, WITHOUT_ONE_STEP):
            raise RecordError(f"{path}: expected the columns {','.join(CURVE_COLUMNS)}")
        try:
            return [
                {name: int(row[name]) if name == "step" else float(row[name]) for name in columns} for row in reader
            ]
        except (TypeError, ValueError):
            raise RecordError(f"{path}: row {reader.line_num} does not hold {len(columns)} numbers") from None


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows; floats keep all of their digits, so that reading gives them back."""
    text = io.StringIO()
    columns = CURVE_COLUMNS if all(ONE_STEP in row for row in rows) else WITHOUT_ONE_STEP
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def catastrophic_overfitting(rows: Sequence[Row], n: int) -> int | None:
    """Return the step at which training overfits to single steps, None where it never does; `n` images a row.

    From then on the accuracy under many steps has fallen from its highest so far, by more than chance explains, and
    that under one step has not (Wong et al. 2020, arXiv 2001.03994, section 5.4). Chance: four standard errors of the
    difference of two accuracies on n images.
    """
    chance = 4 * math.sqrt(2 * 0.25 / n)
    best: Row | None = None
    for row in rows:
        if ONE_STEP not in row:
            continue
        if best is None or row[MULTI_STEP] > best[MULTI_STEP]:
            best = row
        elif row[MULTI_STEP] < best[MULTI_STEP] - chance and row[ONE_STEP] >= best[ONE_STEP]:
            return int(row["step"])
    return None
