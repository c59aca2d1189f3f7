"""Records on disk: deterministic JSON, written at one stroke and read back strictly."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic
from ensemble_bench.records.decoding import plain, refuse_constant
from ensemble_bench.records.record import Record

RECORD_FILE = "record.json"


def identify(fields: Mapping[str, Any]) -> str:
    """Return the 64 hex digits that stand for an evaluation: SHA-256 of its identifying fields as canonical JSON."""
    text = json.dumps(plain(fields), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def to_json(record: Record) -> str:
    """Return the text of record.json: sorted keys, unrounded numbers; equal records give equal bytes."""
    return json.dumps(record.as_dict(), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_record(record: Record, directory: Path) -> Path:
    """Write `record` as record.json into `directory` (made if missing) at one stroke; return the file's path.

    Raises RecordError when the record does not hold together; then nothing is written.
    """
    path = Path(directory) / RECORD_FILE
    Record.from_dict(record.as_dict(), path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json(record))
    return path


def read_record(path: Path) -> Record:
    """Read and check a record; `path` is its JSON file or the directory that holds record.json.

    Raises RecordError when the file is missing, is not JSON, or is not a record (see Record.from_dict).
    """
    path = Path(path)
    file = path / RECORD_FILE if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except OSError as error:
        raise RecordError(f"{file}: cannot read the record ({error.strerror})") from None
    except ValueError as error:
        raise RecordError(f"{file}: not a JSON record ({error})") from None
    return Record.from_dict(values, path=file)


def find_records(root: Path) -> list[Record]:
    """Read every record.json below `root`, in the order of their paths; a broken one raises RecordError."""
    root = Path(root)
    if not root.is_dir():
        raise RecordError(f"{root}: no such directory; expected one that holds records")
    return [read_record(path) for path in sorted(root.rglob(RECORD_FILE))]
