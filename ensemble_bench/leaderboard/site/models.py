"""Models of the site: one model on one data set under one threat, with all records that score it there."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble_bench.errors import RecordError
from ensemble_bench.files import sha256_bytes, sha256_file
from ensemble_bench.leaderboard.model_info import ModelInfo
from ensemble_bench.leaderboard.model_info import read as read_info
from ensemble_bench.records import Record, find_records, place_of
from ensemble_bench.registry import SUITES


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome of verifying a submission: "verified" or "not reproduced", and why; `date` is in UTC."""

    status: str
    reasons: tuple[str, ...]
    date: str
    weights_hash: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's evaluations on one data set under one threat.

    `record` ranks it. `records` holds it and all others of the whole model, the strongest suite first, those of other
    checkpoints at the end; `views` those of its parts; `sweep` those of one suite over ascending eps (two or more, or
    none). `folder` is its place in the site. What was published with it: `weights`, the files of the scored checkpoint,
    `card`, its card in Markdown, `info`, its entry in RobustBench's schema, and `verification`.
    """

    name: str
    record: Record
    records: tuple[Record, ...]
    views: tuple[Record, ...]
    sweep: tuple[Record, ...]
    folder: str
    weights: tuple[Path, ...] = ()
    card: str | None = None
    info: ModelInfo | None = None
    verification: Verification | None = None


def read_models(root: Path) -> list[Model]:
    """Collect the models that the records below `root` score, in the order of their names, none where there is none.

    Raises RecordError for a missing folder, a broken record or verification, and weights that are not those scored.
    """
    records = find_records(root)
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.data_name, str(record.threat), name_of(record)), []).append(record)
    return [_model(group, records) for _, group in sorted(groups.items()) if any(r.view is None for r in group)]


def name_of(record: Record) -> str:
    """Name of a record's model: the one it was published under, else its run's."""
    board = _board(record)
    return record.run if board is None or record.path is None else record.path.parents[2].name


def strength(suite: str) -> int:
    """How many ranks a suite stands below the strongest; a sum of suites and attacks stands at its strongest part."""
    highest = max(known.rank for known in SUITES.values())
    return highest - max((SUITES[part].rank for part in suite.split("+") if part in SUITES), default=0)


def _model(group: Iterable[Record], everything: Iterable[Record]) -> Model:
    whole: dict[str, Record] = {}
    for record in sorted((record for record in group if record.view is None), key=_place):
        whole.setdefault(record.id, record)  # where the best checkpoint is the last one, both have the same id
    record, *_ = whole.values()
    name = name_of(record)
    same = [r for r in whole.values() if r.weights_hash == record.weights_hash]
    parts = [r for r in group if r.view is not None and r.weights_hash == record.weights_hash]
    return Model(
        name=name,
        record=record,
        records=(*same, *(r for r in whole.values() if r.weights_hash != record.weights_hash)),
        views=tuple(sorted(parts, key=lambda r: (strength(r.suite), -r.n, r.view == "logit", r.view, r.id))),
        sweep=_sweep(record, everything),
        folder="/".join(("models", _safe(record.data_name), record.threat.slug, _safe(name))),
        **_published(record, name),
    )


def _place(record: Record) -> tuple[Any, ...]:
    """The record that ranks a model comes first: headline checkpoint, test images, the strongest suite, most images."""
    other = place_of(record.checkpoint), record.split != "test"
    return *other, strength(record.suite), -record.n, record.robust.accuracy, record.id


def _sweep(record: Record, everything: Iterable[Record]) -> tuple[Record, ...]:
    """The longest series over eps of one suite on the same images; of several records at one eps the lowest."""
    series: dict[tuple[int, str, str, int], dict[float, Record]] = {}
    for other in everything:
        about = other.view, other.weights_hash, other.data_hash, other.threat.norm
        if about == (None, record.weights_hash, record.data_hash, record.threat.norm):
            at_eps = series.setdefault((strength(other.suite), other.suite, other.split, -other.n), {})
            lowest = at_eps.setdefault(other.threat.eps, other)
            at_eps[other.threat.eps] = min(lowest, other, key=lambda r: (r.robust.robust, r.id))
    _, longest = max(sorted(series.items()), key=lambda item: len(item[1]))
    return tuple(longest[eps] for eps in sorted(longest)) if len(longest) > 1 else ()


def _board(record: Record) -> Path | None:
    """The published board that a record lies in: <board>/records/<name>/evaluations/<evaluation>/record.json."""
    if record.path is None or len(record.path.parents) < 5:
        return None
    folders = record.path.parents
    return folders[4] if (folders[1].name, folders[3].name) == ("evaluations", "records") else None


def _published(record: Record, name: str) -> dict[str, Any]:
    """The fields of Model that come from files beside the records of a published model."""
    board = _board(record)
    if board is None:
        return {}
    base = board / "weights" / name / f"{_safe(record.checkpoint or 'best')}.safetensors"
    weights = tuple(path for path in (base, base.with_suffix(".json")) if path.is_file())
    if base.is_file() and sha256_file(base) != record.weights_hash:
        raise RecordError(f"{base}: not the weights that {record.path} scored ({record.weights_hash})")
    card = base.with_name("README.md")
    info = board / "model_info" / f"{name}.json"
    verdict = _verification(board / "verified" / f"{name}.json")
    # A verdict on other weights says nothing about these.
    known = verdict is not None and verdict.weights_hash == record.weights_hash
    return {
        "weights": weights,
        "card": card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
        "info": read_info(info) if info.is_file() else None,
        "verification": verdict if known else None,
    }


def _verification(path: Path) -> Verification | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Verification(
            status=str(values["status"]),
            reasons=_texts(values["reasons"]),
            date=str(values["date"]),
            weights_hash=str(values["weights_hash"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: not a verification ({type(error).__name__}: {error})") from None


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"expected a list of reasons, got {values!r}")
    return tuple(map(str, values))


def _safe(part: str) -> str:
    """`part` as a folder's name on any system; texts that differ give names that differ."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", part)[:100].lstrip(".")
    return name if name == part else f"{name}-{sha256_bytes(part.encode())[7:15]}"
