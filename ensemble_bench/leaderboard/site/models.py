"""Models of the site: one model on one data set under one threat, with all records that score it there."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble_bench.errors import RecordError
from ensemble_bench.files import sha256_bytes, sha256_file
from ensemble_bench.leaderboard.gallery import Gallery, gallery_of
from ensemble_bench.leaderboard.model_info import ModelInfo
from ensemble_bench.leaderboard.model_info import read as read_info
from ensemble_bench.leaderboard.published import board_of, is_shown, name_of
from ensemble_bench.leaderboard.ranking import Standing, standings
from ensemble_bench.leaderboard.verified import Verified, read_verified, verified_file
from ensemble_bench.records import SAMPLES_FILE, Record, find_records, place_of, read_samples, withstood
from ensemble_bench.records.conditions import precision_of, version_of
from ensemble_bench.records.statistics import wilson_around
from ensemble_bench.records.table import Value
from ensemble_bench.registry import strength_of
from ensemble_bench.registry.file_names import is_reserved
from ensemble_bench.registry.terms import TEST


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's evaluations on one data set under one threat.

    `record` stands for it, the one that ranks it if it has a rank. `records` holds it and all others of the whole
    model, the strongest suite first, those of other checkpoints at the end; `views` those of its parts; `sweep` those
    of one suite over ascending eps (two or more, or none). `standings` say of each of `records` where it stands on its
    board, `standing` of `record`. `union` is the share of the images of `record` that withstood every evaluation of
    these weights, None where there is one evaluation alone. `gallery` shows
    adversarial images of it. `folder` is its place in the site. What was published with
    it: `weights`, the files of the scored checkpoint, `card`, its card in Markdown, `info`, its entry in RobustBench's
    schema, and `verified`, the verdicts on its records.
    """

    name: str
    record: Record
    records: tuple[Record, ...]
    views: tuple[Record, ...]
    sweep: tuple[Record, ...]
    folder: str
    standing: Standing
    standings: tuple[Standing, ...]
    union: Value | None = None
    gallery: Gallery | None = None
    weights: tuple[Path, ...] = ()
    card: str | None = None
    info: ModelInfo | None = None
    verified: Verified | None = None


def read_models(root: Path) -> list[Model]:
    """Collect the models that the records below `root` score, in the order of their names, none where there is none.

    On a published board that are models with a verdict.
    Raises RecordError for a missing folder, a broken record or verification, and weights that are not those scored.
    """
    records = [record for record in find_records(root) if is_shown(record)]
    whole = [record for record in records if record.view is None]
    stands = {_key(record): standing for record, standing in zip(whole, standings(whole), strict=True)}
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.data_name, str(record.threat), name_of(record)), []).append(record)
    return [_model(group, records, stands) for _, group in sorted(groups.items()) if any(r.view is None for r in group)]


def titles_of(model: Model) -> dict[str, str]:
    """Of each record of a model, by its id, a title that no other has."""
    titles = {record.id: _title(record, model.record) for record in model.records}
    tellers: tuple[Callable[[Record], str], ...] = (
        lambda r: f"{r.split} images",
        lambda r: f"attack seed {r.seed}",
        lambda r: f"search in {precision_of(r) or 'a precision not recorded'}",
        lambda r: f"version {version_of(r)} of the suite",
        lambda r: f"at commit {(r.commit or 'not recorded')[:7]}",
        lambda r: f"record {r.id[:8]}",
    )
    for tell in tellers:
        for title in [title for title, count in Counter(titles.values()).items() if count > 1]:
            same = [record for record in model.records if titles[record.id] == title]
            if len({tell(record) for record in same}) > 1:
                titles |= {record.id: f"{title}, {tell(record)}" for record in same}
    return titles


def _title(record: Record, first: Record) -> str:
    """Suite, number of images, and whose weights, where they are not those of the `first` record."""
    weights = f" ({record.checkpoint} checkpoint)" if record.checkpoint else ""
    other = f", other weights{weights}" if record.weights_hash != first.weights_hash else ""
    return f"Suite {record.suite}, n = {record.n:,}{other}"


def _key(record: Record) -> str:
    return f"{record.path} {record.id}"


def _model(group: Iterable[Record], everything: Iterable[Record], stands: Mapping[str, Standing]) -> Model:
    whole: dict[str, Record] = {}
    for record in sorted((record for record in group if record.view is None), key=_place):
        whole.setdefault(record.id, record)  # where the best checkpoint is the last one, both have the same id
    first = next(iter(whole.values()))
    record = next((r for r in whole.values() if stands[_key(r)].rank is not None), first)
    name = name_of(record)
    same = [r for r in whole.values() if r.weights_hash == record.weights_hash]
    parts = [r for r in group if r.view is not None and r.weights_hash == record.weights_hash]
    ordered = (record, *(r for r in same if r is not record))
    ordered += tuple(r for r in whole.values() if r.weights_hash != record.weights_hash)
    return Model(
        name=name,
        record=record,
        records=ordered,
        standing=stands[_key(record)],
        standings=tuple(stands[_key(r)] for r in ordered),
        union=_union(record, same),
        gallery=gallery_of(same),
        views=tuple(sorted(parts, key=lambda r: (-strength_of(r.suite), -r.n, r.view == "logit", r.view, r.id))),
        sweep=_sweep(record, everything),
        folder="/".join(("models", _safe(record.data_name), record.threat.slug, _safe(name))),
        **_published(record, name),
    )


def _place(record: Record) -> tuple[Any, ...]:
    """The record that ranks a model comes first: headline checkpoint, test images, the strongest suite, most images."""
    other = place_of(record.checkpoint), record.split != TEST
    return *other, -strength_of(record.suite), -record.n, record.robust.accuracy, record.id


def _sweep(record: Record, everything: Iterable[Record]) -> tuple[Record, ...]:
    """The longest series over eps of one suite on the same images; of several records at one eps the lowest."""
    series: dict[tuple[int, str, str, int], dict[float, Record]] = {}
    for other in everything:
        about = other.view, other.weights_hash, other.data_hash, other.threat.norm
        if about == (None, record.weights_hash, record.data_hash, record.threat.norm):
            at_eps = series.setdefault((-strength_of(other.suite), other.suite, other.split, -other.n), {})
            lowest = at_eps.setdefault(other.threat.eps, other)
            at_eps[other.threat.eps] = min(lowest, other, key=lambda r: (r.robust.accuracy, r.id))
    _, longest = max(sorted(series.items()), key=lambda item: len(item[1]))
    return tuple(longest[eps] for eps in sorted(longest)) if len(longest) > 1 else ()


def _union(record: Record, same: Sequence[Record]) -> Value | None:
    """Share of the images of `record` that no evaluation of these weights broke, with its interval.

    None where there is no other evaluation of them, or the samples that say so are not there.
    """
    others = [r for r in same if (r.data_hash, r.split) == (record.data_hash, record.split)]
    paths = [r.path for r in others if r.path is not None and (r.path.parent / SAMPLES_FILE).is_file()]
    if len(paths) < 2 or record.path not in paths:
        return None
    fates = {path: _fates(path.parent) for path in paths}
    standing = [min(float(fate.get(image, True)) for fate in fates.values()) for image in fates[record.path]]
    accuracy = sum(standing) / len(standing)
    low, high = wilson_around(accuracy, len(standing))
    return Value(accuracy=accuracy, ci_low=low, ci_high=high)


def _fates(folder: Path) -> dict[int, float]:
    """Of each image of a record, by its id, whether it withstood all, or the share of draws that are right there."""
    samples = read_samples(folder)
    return dict(zip(samples["id"].tolist(), withstood(samples).tolist(), strict=True))


def _published(record: Record, name: str) -> dict[str, Any]:
    """The fields of Model that come from files beside the records of a published model."""
    board = board_of(record)
    if board is None:
        return {}
    base = board / "weights" / name / f"{_safe(record.checkpoint or 'best')}.safetensors"
    weights = tuple(path for path in (base, base.with_suffix(".json")) if path.is_file())
    if base.is_file() and sha256_file(base) != record.weights_hash:
        raise RecordError(f"{base}: not the weights that {record.path} scored ({record.weights_hash})")
    card = base.with_name("README.md")
    info = board / "model_info" / f"{name}.json"
    known = read_verified(verified_file(board, name))
    return {
        "weights": weights,
        "card": card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
        "info": read_info(info) if info.is_file() else None,
        # A verdict on other weights says nothing about these.
        "verified": known if known is not None and known.weights_hash == record.weights_hash else None,
    }


def _safe(part: str) -> str:
    """`part` as a folder's name on any system; texts that differ give names that differ."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", part)[:100].lstrip(".")
    if is_reserved(name):
        name = name.replace(".", "_")  # what follows makes it another
        return f"{name}-{sha256_bytes(part.encode())[7:15]}"
    return name if name == part else f"{name}-{sha256_bytes(part.encode())[7:15]}"
