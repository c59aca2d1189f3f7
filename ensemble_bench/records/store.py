"""Records on disk: deterministic JSON, written at one stroke and read back strictly."""

import json
from pathlib import Path

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic
from ensemble_bench.records.record import Record
from ensemble_bench.records.seal import DamagedError, opened, sealed
from ensemble_bench.records.training import RUN_FILE

RECORD_FILE = "record.json"


def to_json(record: Record) -> str:
    """Return the text of record.json: sorted keys, unrounded numbers; equal records give equal bytes.

    A record from before samples were hashed gets no self-hash either: it is written as it was.
    """
    values = record.as_dict() if record.samples_hash is None else sealed(record.as_dict())
    return json.dumps(values, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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

    Raises RecordError, which says how to make it anew, when the file is missing, is not JSON, is not what was written,
    or is not a record (see Record.from_dict).
    """
    path = Path(path)
    file = path / RECORD_FILE if path.is_dir() else path
    try:
        return Record.from_dict(opened(file.read_bytes()), path=file)
    except OSError as error:
        raise RecordError(f"{file}: cannot read the record ({error.strerror})") from None
    except DamagedError as error:
        raise RecordError(f"{file}: {error}; {remedy(file.parent)}") from None
    except ValueError as error:
        raise RecordError(f"{file}: not a JSON record ({error}); {remedy(file.parent)}") from None
    except RecordError as error:
        raise RecordError(f"{error}; {remedy(file.parent)}") from None


def remedy(folder: Path) -> str:
    """How to make the evaluation in `folder` anew, for an error that names a damaged file in it."""
    run = folder.parents[1] if len(folder.parents) > 1 else folder
    if folder.parent.name == "evaluations" and ((run / RUN_FILE).exists() or any(run.glob("*.safetensors"))):
        return f"delete {folder} and `ensemble-bench evaluate {run}`, with the options of before, makes it anew"
    return f"restore {folder} from where it comes from, or delete it and make it anew with `ensemble-bench evaluate`"


def find_records(root: Path) -> list[Record]:
    """Read every record.json below `root`, in the order of their paths; a broken one raises RecordError."""
    root = Path(root)
    if not root.is_dir():
        raise RecordError(f"{root}: no such directory; expected one that holds records")
    return [read_record(path) for path in sorted(root.rglob(RECORD_FILE))]
