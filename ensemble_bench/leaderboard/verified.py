"""verified/NAME.json: what an operator found out about a published model, record by record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensemble_bench.errors import RecordError
from ensemble_bench.records import NamedWarning, Record
from ensemble_bench.records.conditions import precision_of
from ensemble_bench.records.decoding import decode
from ensemble_bench.records.seal import opened

SCHEMA = 2
VERIFIED_FOLDER = "verified"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An operator's verdict on one record, which is the operator's own: what was evaluated, how, by whom and when.

    `record` is its id, `images` the size of the test split that its `n` images are the first of, `date` in UTC. Where a
    submitter claimed the same evaluation, `differing` of the `compared` images have another verdict in the claim,
    `allowed` might, and `apart` were left out, as either black-box set broke them and the sets are not the same;
    `claimed_precision` is that of the submitter's search. They are None where nothing was claimed.
    """

    record: str
    suite: str
    n: int
    images: int
    seed: int
    precision: str
    status: str
    by: str
    date: str
    differing: int | None = None
    compared: int | None = None
    allowed: int | None = None
    apart: int | None = None
    claimed_precision: str | None = None

    def is_of(self, record: Record) -> bool:
        """Whether it was given on this very record: what it says of it has to be so."""
        said = self.record, self.suite, self.n, self.seed, self.precision
        return said == (record.id, record.suite, record.n, record.seed, precision_of(record))


@dataclass(frozen=True, kw_only=True)
class Verified:
    """All verdicts on the records of one model, of these weights, and signs against it.

    `flags` are what an operator found beside any evaluation. `earlier` is the date of a verdict from before verdicts
    named their record: it says that some evaluation was repeated, but not which.
    """

    weights_hash: str
    verdicts: tuple[Verdict, ...]
    flags: tuple[NamedWarning, ...]
    versions: Mapping[str, str]
    earlier: str | None = None

    def on(self, record: Record) -> Verdict | None:
        """The verdict on a record, None where there is none."""
        if record.weights_hash != self.weights_hash:
            return None
        return next((verdict for verdict in self.verdicts if verdict.is_of(record)), None)

    def as_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "schema": SCHEMA,
            "weights_hash": self.weights_hash,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "flags": [asdict(flag) for flag in self.flags],
            "versions": dict(self.versions),
            "earlier": self.earlier,
        }


def verified_file(board: Path, name: str) -> Path:
    """Where a board keeps the verdicts on a model."""
    return board / VERIFIED_FOLDER / f"{name}.json"


def read_verified(path: Path) -> Verified | None:
    """Read the verdicts on a model, None where there are none; raises RecordError for a broken file."""
    if not path.is_file():
        return None
    try:
        values = opened(path.read_bytes())
        if isinstance(values, dict) and "schema" not in values:
            return _earlier(values)
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema: expected {SCHEMA}, got {values['schema']!r}")
        found: Verified = decode(Verified, {k: v for k, v in values.items() if k != "schema"}, "verified")
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: not a verification ({type(error).__name__}: {error})") from None


def _earlier(values: Mapping[str, Any]) -> Verified:
    """A verdict as they were before: of weights, suites and the largest n, so that no record can be told to have it."""
    for name in ("status", "date", "weights_hash"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name}: expected a text, got {values[name]!r}")
    return Verified(weights_hash=values["weights_hash"], verdicts=(), flags=(), versions={}, earlier=values["date"])
