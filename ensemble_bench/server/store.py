"""The memory of the service, one SQLite file: tokens as hashes, submissions in their order, and owners of names."""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ensemble_bench.errors import InvalidValueError, RecordError, UnknownNameError

DAY = timedelta(hours=24)
QUEUED, VERIFYING = "queued", "verifying"
TOKEN_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,79}"
BUSY = 60.0
"""Seconds to wait for another's transaction."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    created TEXT NOT NULL,
    revoked TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS one_token_an_owner ON tokens (owner) WHERE revoked IS NULL;
CREATE TABLE IF NOT EXISTS submissions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    weights_hash TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued',
    reasons TEXT NOT NULL DEFAULT '[]',
    crashes INTEGER NOT NULL DEFAULT 0,
    submitted TEXT NOT NULL,
    changed TEXT NOT NULL,
    digest TEXT NOT NULL DEFAULT '',
    postponed INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS made ON submissions (owner, submitted);
CREATE INDEX IF NOT EXISTS queue ON submissions (status, number);
CREATE TABLE IF NOT EXISTS names (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS turns (
    owner TEXT PRIMARY KEY,
    turn INTEGER NOT NULL
);
PRAGMA user_version = 2;
"""
# Columns that a file from before has not.
ADDED = {
    "digest": "TEXT NOT NULL DEFAULT ''",
    "postponed": "INTEGER NOT NULL DEFAULT 0",
    "not_before": "REAL NOT NULL DEFAULT 0",
    "seconds": "REAL NOT NULL DEFAULT 0",
}
FIRST_WAIT, LONGEST_WAIT = 30.0, 3600.0
"""Seconds until a submission is tried again that the machine failed, doubled each time, and at most."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """Who may submit, since when and, if it is revoked, until when (UTC); the token itself is not kept."""

    owner: str
    created: str
    revoked: str | None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A bundle that was accepted; `status` goes from queued to verifying to one of registry.terms.STATUSES.

    `reasons` say why it is not verified; `submitted` and `changed` are in UTC.
    """

    id: str
    owner: str
    name: str
    weights_hash: str
    status: str
    reasons: tuple[str, ...]
    submitted: str
    changed: str


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many submissions an owner may have without a verdict, and make in 24 hours."""

    pending: int
    daily: int


class QuotaError(Exception):
    """An owner's quota is used up; it may be tried again after `seconds`."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class Store:
    """The SQLite file at `path`, made where there is none; safe to use from many threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._make_private()
        with self._connected() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            known = {row["name"] for row in connection.execute("PRAGMA table_info(submissions)")}
            for name in ADDED.keys() - known:
                connection.execute(f"ALTER TABLE submissions ADD COLUMN {name} {ADDED[name]}")

    def _make_private(self) -> None:
        """Have only this user read the file and those that SQLite puts beside it, which it makes like the file."""
        with _readable(self.path):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            for suffix in ("", "-wal", "-shm", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(f"{self.path}{suffix}", 0o600)

    # Tokens

    def create_token(self, owner: str) -> str:
        """Return a new token of `owner`, which cannot be read again.

        Raises InvalidValueError for a name that is not TOKEN_NAME, and for an owner who has one.
        """
        if not re.fullmatch(TOKEN_NAME, owner):
            raise InvalidValueError(f"token name is {owner!r}: expected {TOKEN_NAME}")
        token = f"eb_{secrets.token_urlsafe(32)}"
        with self._connected() as connection:
            try:
                connection.execute("INSERT INTO tokens VALUES (?, ?, ?, NULL)", (_hashed(token), owner, _now()))
            except sqlite3.IntegrityError:
                raise InvalidValueError(f"{owner!r} has a token: revoke it before you create another") from None
        return token

    def revoke_token(self, owner: str) -> None:
        """Make the token of `owner` worthless; raises UnknownNameError where there is none."""
        with self._connected() as connection:
            done = connection.execute(
                "UPDATE tokens SET revoked = ? WHERE owner = ? AND revoked IS NULL", (_now(), owner)
            )
        if not done.rowcount:
            raise UnknownNameError("token", owner, [token.owner for token in self.tokens() if token.revoked is None])

    def tokens(self) -> list[Token]:
        """All tokens ever made, oldest first."""
        with self._connected() as connection:
            rows = connection.execute("SELECT owner, created, revoked FROM tokens ORDER BY created, rowid").fetchall()
        return [Token(**dict(row)) for row in rows]

    def find_token(self, token: str) -> Token | None:
        """The entry of a token, revoked or not; None if it was never made."""
        with self._connected() as connection:
            row = connection.execute(
                "SELECT owner, created, revoked FROM tokens WHERE hash = ?", (_hashed(token),)
            ).fetchone()
        return None if row is None else Token(**dict(row))

    # Submissions

    def add(
        self, identifier: str, *, owner: str, name: str, weights_hash: str, digest: str = "", quota: Quota | None = None
    ) -> str:
        """Put a submission at the end of the queue; it is there for good when this returns its id.

        Where one of the same owner and `digest` has no verdict yet, nothing is added: it is that one's id. Raises
        QuotaError for an owner whose `quota` is used up.
        """
        now = _now()
        with self._connected() as connection, _transaction(connection):
            equal = connection.execute(
                "SELECT id FROM submissions WHERE owner = ? AND digest = ? AND digest != '' AND status IN (?, ?)",
                (owner, digest, QUEUED, VERIFYING),
            ).fetchall()
            if equal:
                return str(equal[0]["id"])
            if quota is not None:
                _check_quota(connection, owner, quota)
            connection.execute(
                "INSERT INTO submissions (id, owner, name, weights_hash, digest, submitted, changed) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (identifier, owner, name, weights_hash, digest, now, now),
            )
        return identifier

    def check_quota(self, owner: str, quota: Quota) -> None:
        """Raise QuotaError for an owner who may submit nothing now."""
        with self._connected() as connection:
            _check_quota(connection, owner, quota)

    def get(self, identifier: str) -> Submission | None:
        """The submission of that id, None if there is none."""
        with self._connected() as connection:
            row = connection.execute("SELECT * FROM submissions WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else _submission(row)

    def pending(self) -> set[str]:
        """Ids of the submissions without a verdict."""
        with self._connected() as connection:
            rows = connection.execute("SELECT id FROM submissions WHERE status IN (?, ?)", (QUEUED, VERIFYING))
            return {row["id"] for row in rows}

    def take(self) -> Submission | None:
        """Begin with a submission: it is verifying from now on; None when none waits, or all wait for their time.

        Owners take turns: it is the oldest of the one whose last turn is longest ago.
        """
        with self._connected() as connection, _transaction(connection):
            rows = connection.execute(
                "UPDATE submissions SET status = ?, reasons = '[]', changed = ? WHERE number = ("
                "SELECT number FROM submissions LEFT JOIN turns USING (owner) WHERE status = ? AND not_before <= ? "
                "ORDER BY coalesce(turn, 0), number LIMIT 1) RETURNING *",
                (VERIFYING, _now(), QUEUED, time.time()),
            ).fetchall()
            for row in rows:
                connection.execute(
                    "INSERT OR REPLACE INTO turns SELECT ?, coalesce(max(turn), 0) + 1 FROM turns", (row["owner"],)
                )
        return _submission(rows[0]) if rows else None

    def requeue(self, *, crashes: int = 0) -> None:
        """Return the submissions under verification to their old places in the queue, with `crashes` more counted."""
        with self._connected() as connection:
            connection.execute(
                "UPDATE submissions SET status = ?, crashes = crashes + ?, changed = ? WHERE status = ?",
                (QUEUED, crashes, _now(), VERIFYING),
            )

    def postpone(self, identifier: str, reason: str, *, crashes: int = 0) -> float:
        """Return a submission to its place in the queue, to be tried again after a while; returns its seconds.

        The while doubles each time. `reason` is what its owner is told meanwhile.
        """
        with self._connected() as connection:
            (row,) = connection.execute("SELECT postponed FROM submissions WHERE id = ?", (identifier,)).fetchall()
            wait = float(min(FIRST_WAIT * 2.0 ** min(row["postponed"], 20), LONGEST_WAIT))
            connection.execute(
                "UPDATE submissions SET status = ?, reasons = ?, crashes = crashes + ?, postponed = postponed + 1, "
                "not_before = ?, changed = ? WHERE id = ?",
                (QUEUED, json.dumps([reason]), crashes, time.time() + wait, _now(), identifier),
            )
        return wait

    def spend(self, identifier: str, seconds: float) -> float:
        """Count time of a verification; returns the seconds that all attempts took."""
        with self._connected() as connection:
            rows = connection.execute(
                "UPDATE submissions SET seconds = seconds + ? WHERE id = ? RETURNING seconds", (seconds, identifier)
            ).fetchall()
        return float(rows[0]["seconds"]) if rows else 0.0

    def crashed(self, attempts: int) -> list[Submission]:
        """The submissions in the queue at which the verifier crashed `attempts` times."""
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT * FROM submissions WHERE status = ? AND crashes >= ?", (QUEUED, attempts)
            ).fetchall()
        return [_submission(row) for row in rows]

    def finish(self, identifier: str, status: str, reasons: Sequence[str] = ()) -> None:
        """Write the verdict on a submission."""
        with self._connected() as connection:
            connection.execute(
                "UPDATE submissions SET status = ?, reasons = ?, changed = ? WHERE id = ?",
                (status, json.dumps(list(reasons)), _now(), identifier),
            )

    # Names

    def owner_of(self, name: str) -> str | None:
        """Who publishes under a name through this service; None if nobody does."""
        with self._connected() as connection:
            row = connection.execute("SELECT owner FROM names WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["owner"])

    def give_name(self, name: str, owner: str) -> bool:
        """Let `owner` alone publish under a name that is nobody's; returns whether it was."""
        with self._connected() as connection:
            return bool(connection.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (name, owner)).rowcount)

    def release_name(self, name: str) -> None:
        """Let the name be nobody's again: nothing was published under it."""
        with self._connected() as connection:
            connection.execute("DELETE FROM names WHERE name = ?", (name,))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection on which every statement is a transaction of its own.

        Raises RecordError where the file is none of SQLite's, is damaged, or cannot be opened or written.
        """
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                # On disk before it is answered, also if the power fails.
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.OperationalError as error:
            raise RecordError(f"{self.path}: {error}") from error
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise RecordError(f"{self.path}: {error}; restore it from a copy, or move it away to begin anew") from error


def _check_quota(connection: sqlite3.Connection, owner: str, quota: Quota) -> None:
    (row,) = connection.execute(
        "SELECT count(*) AS pending FROM submissions WHERE owner = ? AND status IN (?, ?)", (owner, QUEUED, VERIFYING)
    ).fetchall()
    if row["pending"] >= quota.pending:
        raise QuotaError(f"{row['pending']} of your submissions have no verdict yet: wait for one", 600)
    now = datetime.now(UTC)
    since = (now - DAY).isoformat(timespec="seconds")
    made = connection.execute(
        "SELECT submitted FROM submissions WHERE owner = ? AND submitted > ? ORDER BY submitted", (owner, since)
    ).fetchall()
    if len(made) >= quota.daily:
        free = datetime.fromisoformat(made[len(made) - quota.daily]["submitted"]) + DAY
        seconds = max(1, math.ceil((free - now).total_seconds()))
        raise QuotaError(f"you made {len(made)} submissions in 24 hours, at most {quota.daily} are taken", seconds)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Have a file that cannot be opened be a RecordError."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Statements that happen as one: nobody else writes in between."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _submission(row: sqlite3.Row) -> Submission:
    values = {field.name: row[field.name] for field in fields(Submission)}
    return Submission(**values | {"reasons": tuple(json.loads(row["reasons"]))})


def _hashed(token: str) -> str:
    # 256 random bits need no salt and no slow hash.
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
