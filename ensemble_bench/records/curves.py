"""curves.csv: one row an evaluation point of training, rewritten atomically, so that no reader sees half a row."""

import csv
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic
from ensemble_bench.records.training import trained_anew

ATTACKS = ("ifgsm5", "ifgsm7", "pgd5", "pgd20")
"""Attacks on the validation images at every evaluation point."""
ONE_STEP, MULTI_STEP = "fgsm", "pgd20"
"""Their accuracies part where a network overfits catastrophically; FGSM is a single step of eps from the image itself
(Goodfellow et al. 2015)."""
CURVE_COLUMNS = ("step", "epoch", "clean", ONE_STEP, *ATTACKS, "loss", "lr", "seconds")
# Files of earlier versions.
WITHOUT_ONE_STEP = tuple(name for name in CURVE_COLUMNS if name != ONE_STEP)
CHECK = "check"
"""Column of the rows' checksums, the last; files of versions before lack it."""
Row = Mapping[str, float]
LARGEST = 2**63


def read(path: Path) -> list[Row]:
    """Rows of a curves.csv, none if it does not exist; raises RecordError where it is not one, or is damaged."""
    try:
        # With an empty row the last one ends in a line end, which a reader of lines would not miss.
        table = list(csv.reader(path.read_bytes().decode().split("\n")))
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path}: not a table of numbers ({error}); {trained_anew(path.parent)}") from None
    (*columns, last), *body = table if table[0] else [[""]]
    checked = last == CHECK
    names = tuple(columns if checked else [*columns, last])
    if names not in (CURVE_COLUMNS, WITHOUT_ONE_STEP):
        raise RecordError(f"{path}: expected the columns {','.join(CURVE_COLUMNS)}; {trained_anew(path.parent)}")
    rows: list[Row] = []
    for number, row in enumerate(body, start=2):
        if not row and number == len(table):
            break
        if checked and row[-1:] != [_check(row[:-1])]:
            raise RecordError(
                f"{path}: row {number} is damaged: it is not what was written; {trained_anew(path.parent)}"
            )
        try:
            rows.append(
                {name: _number(name, text) for name, text in zip(names, row[:-1] if checked else row, strict=True)}
            )
        except ValueError:
            raise RecordError(
                f"{path}: row {number} does not hold {len(names)} numbers; {trained_anew(path.parent)}"
            ) from None
    return rows


def _number(name: str, text: str) -> float:
    if not text.isascii() or "_" in text:
        raise ValueError("int() and float() take digits of other scripts, and underscores")
    number = int(text) if name == "step" else float(text)
    if abs(number) >= LARGEST:
        raise ValueError("beyond what a step, an accuracy or a loss can be")
    return number


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, each with a checksum; floats keep all of their digits, so that reading gives them back."""
    columns = CURVE_COLUMNS if all(ONE_STEP in row for row in rows) else WITHOUT_ONE_STEP
    texts = [[str(row[name]) for name in columns] for row in rows]
    lines = [[*columns, CHECK], *([*row, _check(row)] for row in texts)]
    write_atomic(path, "".join(",".join(line) + "\n" for line in lines))


def _check(row: Sequence[str]) -> str:
    """Checksum of a row: the CRC-32 of its text, in hex digits."""
    return f"{zlib.crc32(','.join(row).encode()):08x}"


def catastrophic_overfitting(rows: Sequence[Row], n: int) -> int | None:
    """Return the step at which training overfits to single steps, None where it never does; `n` images a row.

    From then on the accuracy under many steps has fallen from its highest so far, that under one step has not, and the
    gap between them has grown by more than chance explains (Wong et al. 2020, arXiv 2001.03994, section 5.4). The gap
    is a share of images, those that many steps break and one does not; chance is four standard errors of the difference
    of two shares on n images.
    """
    chance = 4 * math.sqrt(2 * 0.25 / n)
    best: Row | None = None
    for row in rows:
        if ONE_STEP not in row:
            continue
        if best is None or row[MULTI_STEP] > best[MULTI_STEP]:
            best = row
            continue
        parted = row[MULTI_STEP] < best[MULTI_STEP] and row[ONE_STEP] >= best[ONE_STEP]
        if parted and _gap(row) - _gap(best) > chance:
            return int(row["step"])
    return None


def _gap(row: Row) -> float:
    return row[ONE_STEP] - row[MULTI_STEP]
