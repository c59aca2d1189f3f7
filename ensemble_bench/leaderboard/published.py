"""Where a board keeps what is published: <root>/<data set>/<threat>/records/<name>/evaluations/<evaluation>/."""

import os
from collections.abc import Sequence
from pathlib import Path

from ensemble_bench.leaderboard.verified import verified_file
from ensemble_bench.records import Record


def board_of(record: Record) -> Path | None:
    """The folder of the published board that a record lies in; None for one that lies elsewhere."""
    folders = _folders(record)
    published = len(folders) > 4 and (folders[1].name, folders[3].name) == ("evaluations", "records")
    return folders[4] if published else None


def name_of(record: Record) -> str:
    """Name of a record's model: the one it was published under, else its run's."""
    return record.run if board_of(record) is None else _folders(record)[2].name


def _folders(record: Record) -> Sequence[Path]:
    # Absolute: a board is the same, and has the same rules, from whichever folder its records are read.
    return () if record.path is None else Path(os.path.abspath(record.path)).parents


def is_shown(record: Record) -> bool:
    """Whether a record is to be seen: on a published board that is one of a model with a verdict.

    A publication that was cut short has none yet.
    """
    board = board_of(record)
    return board is None or verified_file(board, name_of(record)).is_file()
