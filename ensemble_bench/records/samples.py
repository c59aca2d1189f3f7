"""Samples: the images of a record, a row each, as deterministic Parquet beside it."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_bench.errors import RecordError
from ensemble_bench.files import sha256_bytes
from ensemble_bench.records.store import RECORD_FILE, read_record, remedy

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from ensemble_bench.records.record import Record

SAMPLES_FILE = "samples.parquet"
SAMPLE_COLUMNS = ("id", "label", "clean_prediction", "clean", "broken_by")  # attacks add their own
ADVERSARIAL_PREDICTION = "adversarial_prediction"
EXPECTED, EXPECTED_CLEAN = "expected_accuracy", "expected_clean_accuracy"
"""Of a model that answers at random, the share of draws that are right on each image: attacked, and clean."""
WITHOUT_NULLS = ("id", "label", "clean_prediction", "clean", EXPECTED, EXPECTED_CLEAN)
OPTIONAL_COLUMNS = (ADVERSARIAL_PREDICTION, EXPECTED, EXPECTED_CLEAN)  # some samples lack them


def samples_to_parquet(samples: "pd.DataFrame") -> bytes:
    """Return `samples` (a row an image) as Parquet; equal frames give equal bytes.

    Columns are typed by name: `adversarial_prediction` int64 (the class predicted at the image that broke it; null:
    nothing did), `expected_accuracy` and `expected_clean_accuracy` float64 (of models that answer at random alone),
    `<attack>_steps` int32, `<attack>_margin` float32, `<attack>` bool (null: not attacked).
    Raises RecordError when a column that every evaluation has is missing or a value does not fit its column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_columns(samples, "samples")
    schema = pa.schema([(str(name), _arrow_type(str(name))) for name in samples.columns])
    try:
        table = pa.Table.from_pandas(samples, schema=schema, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise RecordError(f"samples: {str(error).splitlines()[0]}") from None
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_samples(directory: Path) -> "pd.DataFrame":
    """Read the images of the record in `directory`: a row an image, a bool column an attack (True: robust to it).

    A column with nulls has pandas' nullable type. Raises RecordError when the file is missing, broken or incomplete, or
    is not the one that a record beside it was written with, or has other counts than that.
    """
    file = Path(directory) / SAMPLES_FILE
    record = read_record(directory) if (Path(directory) / RECORD_FILE).exists() else None
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RecordError(f"{file}: cannot read the samples ({error.strerror}); {remedy(file.parent)}") from None
    if record is not None and record.samples_hash not in (None, sha256_bytes(data)):
        raise RecordError(f"{file}: damaged: not the file that its record was written with; {remedy(file.parent)}")
    frame = _frame(data, file)
    _check_columns(frame, str(file))
    try:
        if record is not None:
            _check_counts(frame, record, file)
    except (TypeError, ValueError) as error:  # a column of another type
        raise RecordError(f"{file}: not the samples of a record ({error}); {remedy(file.parent)}") from None
    return frame


def counts_of(samples: "pd.DataFrame", attack: str) -> tuple[int, int, int]:
    """Of an attack: images that it met, those robust to it, and its credit, images that it was the first to break."""
    column = samples[attack]
    credit = int((samples["broken_by"] == attack).sum())
    return int(column.notna().sum()), int(column.astype("boolean").fillna(False).sum()), credit


def _frame(data: bytes, file: Path) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
        table.validate(full=True)
        _check_types(table, file)
        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype(), pa.int32(): pd.Int32Dtype()}
        return pd.DataFrame(
            {
                name: column.to_pandas(types_mapper=nullable.get if column.null_count else None)
                for name, column in zip(table.column_names, table.columns, strict=True)
            }
        )
    except (pa.ArrowException, OSError, ValueError) as error:  # what Arrow says of damage that it noticed
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecordError(f"{file}: not a Parquet file ({said}); {remedy(file.parent)}") from None


def _check_types(table: Any, file: Path) -> None:
    """Raise RecordError, naming the column, unless all columns are of the types that they are written with."""
    for field, column in zip(table.schema, table.columns, strict=True):
        wrong, wanted = "", _arrow_type(field.name)
        if field.type != wanted:
            wrong = f"is {field.type}, expected {wanted}"
        elif field.name in WITHOUT_NULLS and column.null_count:
            wrong = "lacks values"
        if wrong:
            raise RecordError(f"{file}: column {field.name!r} {wrong}; {remedy(file.parent)}")


def _check_counts(samples: "pd.DataFrame", record: "Record", file: Path) -> None:
    """Raise RecordError unless the counts of `record` are those of its samples."""
    missing = [attack.name for attack in record.attacks if attack.name not in samples]
    if missing:
        raise RecordError(f"{file}: no column of attack {missing[0]}, which its record has; {remedy(file.parent)}")
    pairs: list[tuple[str, object, object]] = [
        ("n", len(samples), record.n),
        ("clean.correct", int(samples["clean"].sum()), record.clean.correct),
        ("robust.robust", int(worst_case(samples).sum()), record.robust.robust),
    ]
    for attack in record.attacks:
        names = (f"attacks.{attack.name}.{name}" for name in ("n", "robust", "credit"))
        said = (attack.n, attack.robust, attack.credit)
        pairs += zip(names, counts_of(samples, attack.name), said, strict=True)
    if record.randomised is not None and EXPECTED in samples:
        for name, score in ((EXPECTED_CLEAN, record.clean), (EXPECTED, record.robust)):
            mean = float(samples[name].mean())  # whose last bits depend on the order of summation
            if not math.isclose(mean, score.accuracy, abs_tol=1e-9):
                pairs.append((name, mean, score.accuracy))
    for name, found, told in pairs:
        if found != told:
            raise RecordError(f"{file}: its images make {name} {found}, its record says {told}; {remedy(file.parent)}")


def worst_case(samples: "pd.DataFrame") -> "NDArray[np.bool_]":
    """Return, per image, whether it is classified correctly and withstood every attack that ran on it."""
    import numpy as np

    robust = samples["clean"].to_numpy(dtype=bool).copy()
    for name in attack_columns(samples):
        robust &= samples[name].astype("boolean").fillna(True).to_numpy(dtype=bool)
    return np.asarray(robust, dtype=np.bool_)


def withstood(samples: "pd.DataFrame") -> "NDArray[np.bool_] | NDArray[np.float64]":
    """Return, per image, its `worst_case`, or the share of draws that are right of a model that answers at random."""
    if EXPECTED not in samples:
        return worst_case(samples)
    shares: NDArray[np.float64] = samples[EXPECTED].to_numpy(dtype=float)
    return shares


def right_clean(samples: "pd.DataFrame") -> "NDArray[np.bool_] | NDArray[np.float64]":
    """As `withstood`, without an attack."""
    name, kind = (EXPECTED_CLEAN, float) if EXPECTED_CLEAN in samples else ("clean", bool)
    right: NDArray[np.bool_] | NDArray[np.float64] = samples[name].to_numpy(dtype=kind)
    return right


def attack_columns(samples: "pd.DataFrame") -> list[str]:
    """Return the names of the attacks in `samples`, in the order in which they ran."""
    others = (*SAMPLE_COLUMNS, *OPTIONAL_COLUMNS)
    return [name for name in samples.columns if name not in others and not name.endswith(("_steps", "_margin"))]


def _check_columns(samples: "pd.DataFrame", where: str) -> None:
    expected = [name for name in (EXPECTED, EXPECTED_CLEAN) if EXPECTED in samples or EXPECTED_CLEAN in samples]
    missing = [name for name in (*SAMPLE_COLUMNS, *expected) if name not in samples.columns]
    if missing:
        raise RecordError(f"{where}: missing column {missing[0]!r}; samples have {', '.join(SAMPLE_COLUMNS)}")


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    integers = ("id", "label", "clean_prediction", ADVERSARIAL_PREDICTION)
    shares = dict.fromkeys((EXPECTED, EXPECTED_CLEAN), pa.float64())
    fixed = {"broken_by": pa.string()} | dict.fromkeys(integers, pa.int64()) | shares
    suffixed = pa.int32() if name.endswith("_steps") else pa.float32() if name.endswith("_margin") else pa.bool_()
    return fixed.get(name, suffixed)
