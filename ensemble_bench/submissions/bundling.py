"""Make the bundle of a run: its checkpoint, and the claims that its records support."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensemble_bench import registry
from ensemble_bench.errors import BundleError, InvalidValueError, RecordError
from ensemble_bench.files import new_folder, scratch_folder, write_atomic
from ensemble_bench.kinds import takes
from ensemble_bench.leaderboard import model_info
from ensemble_bench.leaderboard.model_info import ModelInfo
from ensemble_bench.leaderboard.rules import PRECISION
from ensemble_bench.models import checkpoint
from ensemble_bench.models.architecture import CheckpointInfo
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import Record, Threat, find_records
from ensemble_bench.records.conditions import precision_of
from ensemble_bench.submissions.format import archive, card, claims
from ensemble_bench.submissions.format.bundle import Bundle, check
from ensemble_bench.submissions.format.limits import Limits

ZIP = ".zip"


@takes
def bundle(
    run: str | Path | Ensemble,
    *,
    checkpoint_name: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    authors: str = "",
    link: str = "",
    venue: str = "Unpublished",
) -> Path:
    """Write the bundle of a run's checkpoint (default: its headline) and of the records of it; returns its path.

    `run` may also be a model that `load` made of one. Others have no bundle, as it holds an architecture of ours, which
    a verifier builds without running the submitter's code.

    `out` is a .zip (default: NAME.zip in the current folder) or else a folder; neither may exist. `name` (default: the
    run's) is what it is published under; `authors`, `link` and `venue` go into RobustBench's entry. Claimed is every
    record of the whole model under the threat model of its training, on test images. Raises BundleError, or
    CheckpointError, for a run without a checkpoint or such records, and texts that no bundle may hold;
    InvalidValueError for a name that no file may have, and a `checkpoint_name` beside the file of another checkpoint.
    """
    info = _checkpoint(run, checkpoint_name)
    name = _name(info, name)
    target = Path(f"{name}{ZIP}") if out is None else Path(out)
    if target.exists():
        raise BundleError(f"{target} exists already: choose another --out")
    records = claimable(info)
    entry = entry_of(records, name=name, authors=authors, link=link, venue=venue)
    if target.suffix != ZIP:
        return _make(target, name, info, records, entry).folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as folder:
        made = _make(folder / "bundle", name, info, records, entry)
        write_atomic(target, archive.packed(made.folder))
    return target


def unclaimed(run: str | Path | Ensemble, *, checkpoint_name: str | None = None) -> list[Record]:
    """Records of the whole checkpoint that its bundle does not claim; raises as `bundle`."""
    info = _checkpoint(run, checkpoint_name)
    claimed = {record.id for record in claimable(info)}
    return [record for record in _records(info) if record.view is None and record.id not in claimed]


def make(run: str | Path, folder: Path) -> Bundle:
    """Write the bundle of a run's headline checkpoint as the new `folder`; raises as `bundle`."""
    info = _checkpoint(run, None)
    name, records = _name(info, None), claimable(info)
    return _make(folder, name, info, records, entry_of(records, name=name))


def is_bundle(path: Path) -> bool:
    """Whether a path is to be read as a bundle, whatever it holds, and not as a run or its checkpoint."""
    if path.is_dir():
        return any((path / name).exists() for name in archive.FILES)
    return path.is_file() and path.suffix != checkpoint.SUFFIX


def claimable(info: CheckpointInfo) -> list[Record]:
    """Records of a checkpoint that others can repeat, under the threat model of its training, in a fixed order.

    Where there is none of that threat model but one of a single other, that one's. Raises BundleError without any.
    """
    records = _records(info)
    fits = [r for r in records if claims.can_claim(r, Limits())]
    threats = {r.threat for r in fits}
    trained = info.meta.get("threat") or {}
    wanted = Threat(norm=trained.get("norm", ""), eps=trained.get("eps", 0.0))
    if not fits:
        shared = registry.names("data set")
        if own := sorted(registry.told(r.dataset) for r in records if r.dataset not in shared):
            raise BundleError(
                f"{info.path}: was scored on {own[0]}, which nobody else has: a bundle claims what others can repeat, "
                f"on {', '.join(shared)} or a data set that a package registers; a run's checkpoint and records can be "
                "passed on as they are"
            )
        raise BundleError(f"{info.path}: no record that backs a claim: `ensemble-bench evaluate {info.path}` makes one")
    if wanted not in threats and len(threats) > 1:
        known = " and ".join(sorted({str(r.threat) for r in fits}))
        raise BundleError(f"{info.path}: its records are of {known}, none of the threat model that it was trained for")
    chosen = [r for r in fits if wanted not in threats or r.threat == wanted]
    # One of each: the verifier repeats it in float32, so that a record in another precision is the second choice.
    ordered = sorted(chosen, key=lambda r: (precision_of(r) == PRECISION, r.id))
    unique = {(r.suite, r.n, r.seed): r for r in ordered}
    return [unique[key] for key in sorted(unique)]


def _records(info: CheckpointInfo) -> list[Record]:
    """Every record of a checkpoint and of its parts."""
    folder = info.path.parent / "evaluations"
    records = find_records(folder) if folder.is_dir() else []
    return [record for record in records if record.weights_hash == info.weights_hash]


def entry_of(records: Sequence[Record], **about: Any) -> ModelInfo:
    """RobustBench's entry of a model.

    Without a record of autoattack it has no robust accuracy, since theirs is AutoAttack's, and its footnote says so.
    """
    try:
        return model_info.from_records(records, **about)
    except RecordError:
        if any(record.suite == "autoattack" for record in records):
            raise
    # The clean accuracy on the most images, as theirs is of all.
    record = max(records, key=lambda r: (r.n, r.suite))
    entry = model_info.from_records([replace(record, suite="autoattack")], **about)
    note = f"Not run against AutoAttack, only {', '.join(sorted({r.suite for r in records}))}: see claims.json."
    return replace(entry, autoattack_acc=None, footnote=" ".join(filter(None, (entry.footnote, note))))


def _checkpoint(run: str | Path | Ensemble, name: str | None) -> CheckpointInfo:
    if isinstance(run, Ensemble) and run.info is not None and checkpoint.is_unchanged(run):
        run = run.info.path
    if not isinstance(run, str | Path) or (not Path(run).exists() and re.search("[:+]", str(run))):
        told = str(run) if isinstance(run, str | Path) else f"this {type(run).__name__}"
        raise BundleError(
            f"{told}: only a run that was trained here, or its checkpoint, has a bundle: an architecture of ours with "
            "its weights, which others build and verify without running anybody's code"
        )
    run = Path(run)
    if name is not None and run.is_dir():
        run /= f"{name}{checkpoint.SUFFIX}"
    elif name is not None and run.is_file() and run.stem != name:
        raise InvalidValueError(f"checkpoint is {name!r}, but {run} is another: give that one, or the run's folder")
    return checkpoint.read_info(run)


def _name(info: CheckpointInfo, name: str | None) -> str:
    return claims.check_name(info.path.resolve().parent.name if name is None else name)


def _make(folder: Path, name: str, info: CheckpointInfo, records: Sequence[Record], entry: ModelInfo) -> Bundle:
    """Write a bundle as the new `folder`, checked, whole or not at all."""
    config = {
        "schema": checkpoint.SCHEMA,
        "architecture": info.architecture.as_dict(),
        "meta": info.meta,
        "weights_hash": info.weights_hash,
    }
    claimed = claims.Claims(name=name, claims=tuple(map(claims.Claim.of, records)))
    with new_folder(folder) as filled:
        shutil.copyfile(info.path, filled / archive.WEIGHTS)
        checkpoint.check_weights(info, filled / archive.WEIGHTS)
        _write_json(filled / archive.CONFIG, config)
        _write_json(filled / archive.MODEL_INFO, entry.as_dict())
        _write_json(filled / archive.CLAIMS, claimed.as_dict())
        (filled / archive.CARD).write_text(
            card.render(name, config, records, credit=credit_of(entry)), encoding="utf-8"
        )
        made = check(filled, Limits())
    return replace(made, folder=folder)


def credit_of(entry: ModelInfo) -> str:
    """Authors, venue and link of an entry on one line, without those that are missing."""
    return ", ".join(part for part in (entry.authors, entry.venue, entry.link) if part and part != "Unpublished")


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
