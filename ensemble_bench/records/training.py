"""Training: what a record says of it, read from a run's description, and the names of a run's checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ensemble_bench.errors import RecordError
from ensemble_bench.records.decoding import decode, plain
from ensemble_bench.records.record import TRAINING, Record, check_training
from ensemble_bench.records.seal import DamagedError, opened
from ensemble_bench.records.threat import Threat

CHECKPOINTS = ("averaged", "best", "last")
"""Checkpoints of a run, the one that tables and verdicts use first: a run that lacks it is shown by the next."""
RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is read of a run.json or of a checkpoint's `meta`; either lacks some, and so do versions before."""

    recipe: str | None = None
    preset: str | None = None
    dataset: str | None = None
    data_name: str | None = None
    data_hash: str | None = None
    seed: int | None = None
    seeds: tuple[int, ...] | None = None
    steps: int | None = None
    step: int | None = None
    checkpoint: str | None = None
    overfitted: int | None = None
    threat: Threat | None = None
    match: str | None = None
    objective: str | None = None
    architecture: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    changes: Mapping[str, Any] | None = None
    threads: int | None = None
    validation_n: int | None = None
    versions: Mapping[str, str] | None = None
    later_versions: tuple[Mapping[str, str] | None, ...] | None = None
    commit: str | None = None
    crossed_commits: bool | None = None
    crossed_versions: bool | None = None


def check_kinds(values: Mapping[str, Any], where: str) -> Description:
    """What a run's description tells; raises ValueError, naming the field of `where`, for a value of another kind."""
    told = {field.name: values[field.name] for field in fields(Description) if field.name in values}
    description: Description = decode(Description, told, where)
    return description


def run_of(text: bytes) -> dict[str, Any]:
    """The values of a run.json; raises ValueError as `opened`, and for a value of another kind than ours."""
    values = opened(text)
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {values!r}")
    check_kinds(values, "run")
    return values


def place_of(checkpoint: str | None) -> tuple[int, str]:
    """Sort key of a checkpoint's name: the headline checkpoint of a run comes first, unknown names last."""
    known = checkpoint in CHECKPOINTS
    return CHECKPOINTS.index(str(checkpoint)) if known else len(CHECKPOINTS), checkpoint or ""


def training_of(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a record holds of a training, from its run.json or a checkpoint's description.

    None where that describes no training. Descriptions from before a key was written lack it here too.
    """
    if "settings" not in meta or "steps" not in meta:
        return None
    threat = meta.get("threat") or {}
    known = dict(meta) | ({"eps": threat["eps"]} if "eps" in threat else {})
    return {key: plain(known[key]) for key in TRAINING if key in known}


def described(record: Record) -> Record:
    """Return `record` with its training; one from before records held it takes it from the run.json of its run.

    It stays as it is where there is none, or one of another recipe or other seeds. Raises RecordError for a run.json
    that is not as it was written.
    """
    if record.training is not None or record.recipe is None or (folder := folder_of(record)) is None:
        return record
    try:
        meta = run_of((folder / RUN_FILE).read_bytes())
        if (meta["recipe"], tuple(meta["seeds"])) != (record.recipe, record.seeds):
            return record
        if (training := training_of(meta)) is not None:
            check_training(training)
        return replace(record, training=training)
    except DamagedError as error:
        raise RecordError(f"{folder / RUN_FILE}: {error}; {trained_anew(folder)}") from None
    except (OSError, ValueError, KeyError, TypeError):
        return record  # then its training is not known


def trained_anew(folder: Path) -> str:
    """How to make the run in `folder` anew, for an error that names a damaged file in it."""
    return f"delete {folder} and `ensemble-bench train`, with the options of before, makes the run anew"


def folder_of(record: Record) -> Path | None:
    """Return the folder of the run that a record was read from: <run>/evaluations/<evaluation>/record.json."""
    if record.path is None or len(record.path.parents) < 3 or record.path.parents[1].name != "evaluations":
        return None
    return record.path.parents[2]
