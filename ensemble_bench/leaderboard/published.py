"""Where a board keeps what is published: <root>/<data set>/<threat>/records/<name>/evaluations/<evaluation>/."""

from pathlib import Path

from ensemble_bench.leaderboard.verified import verified_file
from ensemble_bench.records import Record


def board_of(record: Record) -> Path | None:
    """The folder of the published board that a record lies in; None for one that lies elsewhere."""
    if record.path is None or len(record.path.parents) < 5:
        return None
    folders = record.path.parents
    return folders[4] if (folders[1].name, folders[3].name) == ("evaluations", "records") else None


def name_of(record: Record) -> str:
    """Name of a record's model: the one it was published under, else its run's."""
    board = board_of(record)
    return record.run if board is None or record.path is None else record.path.parents[2].name


def is_shown(record: Record) -> bool:
    """Whether a record is to be seen: on a published board that is one of a model with a verdict.

    A publication that was cut short has none yet.
    """
    board = board_of(record)
    return board is None or verified_file(board, name_of(record)).is_file()
