"""Locks between processes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ensemble_bench.errors import InvalidValueError


@contextmanager
def hold(path: Path, *, wait: float) -> Iterator[None]:
    """Hold the lock `path`; raises InvalidValueError when another process still does after `wait` seconds.

    It is a transaction of SQLite: every system has that, and it ends with the process however that ends.
    """
    with closing(sqlite3.connect(path, timeout=wait, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")  # no file beside it
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise InvalidValueError(f"{path}: cannot be locked, another service runs there: {error}") from None
        yield
