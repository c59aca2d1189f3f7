"""The rules of a board: how its operator evaluates every model that is ranked there, in board.json."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ensemble_bench import registry
from ensemble_bench.errors import RecordError, shortened
from ensemble_bench.files import write_atomic
from ensemble_bench.records.decoding import decode
from ensemble_bench.records.seal import opened

RULES_FILE = "board.json"
PRECISION = "float32"
"""Precision in which operators search: equal on every machine, and the one that finds at least as much."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a model is ranked by: attacks of `suite` with `seed` on the first `n` test images (None: on all of them).

    The suite has to hold the probe, and an attack that counts. A claim agrees with its repetition if the verdicts on at
    most the share `differ` of the images, and one image more, are others. Black-box sets are those of the preset
    `blackbox`, whatever preset a submitter names. With `clean` no evaluation counts that was made from a tree with
    changes. `operator` is who signs verdicts.
    """

    suite: str = "strongest"
    n: int | None = None
    seed: int = 0
    differ: float = 0.005
    blackbox: str = "tiny"
    clean: bool = True
    operator: str = ""

    def allowed(self, images: int) -> int:
        """On how many of so many images a repetition may have another verdict than the claim."""
        return int(self.differ * images + 1e-9) + 1


def rules_file(board: Path) -> Path | None:
    """The board.json of the board in folder `board`: its own, or that of all boards of its root; None without one."""
    return next((path for folder in (board, *board.parents[:2]) if (path := folder / RULES_FILE).is_file()), None)


def rules_of(board: Path) -> Rules:
    """The rules of the board in folder `board`, <root>/<data set>/<threat>; the defaults where no file says others.

    Raises RecordError, naming the file and the field, for a file that is broken or asks for what cannot be.
    """
    path = rules_file(board)
    return Rules() if path is None else read_rules(path)


def read_rules(path: Path) -> Rules:
    """Read board.json; what it does not name keeps its default. Raises RecordError as `rules_of`."""
    try:
        values = opened(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError(f"expected an object with some of {', '.join(field.name for field in fields(Rules))}")
        rules: Rules = decode(Rules, asdict(Rules()) | values, "board")
        _check(rules)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RecordError(f"{path}: {shortened(str(error))}") from None
    return rules


def write_rules(rules: Rules, folder: Path) -> Path:
    """Write `rules` as the board.json of a board, or of all boards in a root; returns its path."""
    path = folder / RULES_FILE
    write_atomic(path, json.dumps(asdict(rules), indent=2, ensure_ascii=False) + "\n")
    return path


def _check(rules: Rules) -> None:
    """Raise ValueError for rules that no evaluation can follow."""
    suite = registry.suite_of(rules.suite)
    if set(suite.attacks) <= set(suite.ensembles):
        raise ValueError(
            f"suite is {rules.suite!r}, which has no attack that counts on every model: choose one such as strongest "
            "or quick+probe"
        )
    if not suite.probe:
        raise ValueError(
            f"suite is {rules.suite!r}, which has no probe for masked gradients: choose {rules.suite}+probe"
        )
    if rules.n is not None and rules.n < 1:
        raise ValueError(f"n is {rules.n}: expected at least 1 image, or null for all")
    if not 0 <= rules.seed < 2**31:
        raise ValueError(f"seed is {rules.seed}: expected 0 to 2147483647")
    if not 0 <= rules.differ < 1:
        raise ValueError(f"differ is {rules.differ:g}: expected a share of the images, from 0 to below 1")
    registry.check("preset", rules.blackbox)
