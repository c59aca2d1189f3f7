"""Publish a verified model in a folder of leaderboards: its weights and the verifier's own records, no claims."""

import json
from dataclasses import replace
from pathlib import Path

from ensemble_bench.errors import BundleError
from ensemble_bench.files import sha256_file, write_atomic
from ensemble_bench.leaderboard import model_info
from ensemble_bench.leaderboard.board import LEADERBOARD_FILE, leaderboard_csv
from ensemble_bench.leaderboard.verified import read_verified, verified_file
from ensemble_bench.models import checkpoint
from ensemble_bench.records import RECORD_FILE, SAMPLES_FILE, Record, find_records
from ensemble_bench.registry.terms import VERIFIED
from ensemble_bench.submissions.bundling import credit_of
from ensemble_bench.submissions.format import archive, card
from ensemble_bench.submissions.verification import Verification


def publish(verification: Verification, folder: str | Path, root: str | Path) -> Path:
    """Publish the model that was verified, from its bundle unpacked in `folder`, below `root`; returns its board.

    The board is <root>/<data name>/<threat>. Every file is written whole, and after the files that it refers to: a call
    that was interrupted is completed by calling again, and repeating a complete one changes nothing. Raises BundleError
    for a submission that is not verified, other weights than those verified, and a name that other weights have.
    """
    folder, root = Path(folder), Path(root)
    if verification.status != VERIFIED or verification.name is None or verification.info is None:
        raise BundleError(f"{verification.name or folder}: {verification.status}, so it is not published")
    name, records = verification.name, verification.records
    weights = folder / archive.WEIGHTS
    if sha256_file(weights) != verification.weights_hash:
        raise BundleError(f"{weights}: not the weights that were verified")
    check_free(name, str(verification.weights_hash), root)
    board = board_of(records[0], root)
    stem = Path(records[0].model).name
    config = json.loads((folder / archive.CONFIG).read_bytes())
    home = board / "weights" / name
    _write(home / f"{stem}.json", (folder / archive.CONFIG).read_bytes())
    _write(home / f"{stem}{checkpoint.SUFFIX}", weights.read_bytes())
    for record in records:
        _publish_record(record, board / "records" / name / "evaluations")
    everything = find_records(board / "records")
    ours = [r for r in everything if r.weights_hash == verification.weights_hash and r.run == name]
    about = card.render(name, config, ours, credit=credit_of(verification.info))
    _write(home / archive.CARD, about.encode())
    _publish_info(verification, ours, board)
    _publish_verdicts(verification, verified_file(board, name))
    _write(board / LEADERBOARD_FILE, leaderboard_csv(everything, root=board).encode())
    return board


def add(verification: Verification, board: Path) -> None:
    """Add the records and verdicts of a verification to a model that is published on `board` already."""
    name = str(verification.name)
    for record in verification.records:
        _publish_record(record, board / "records" / name / "evaluations")
    _publish_verdicts(verification, verified_file(board, name))
    everything = find_records(board / "records")
    _write(board / LEADERBOARD_FILE, leaderboard_csv(everything, root=board).encode())


def check_free(name: str, weights_hash: str, root: Path) -> None:
    """Raise BundleError for a name that other weights have, or that differs from one in its case alone.

    So it does for weights that are published under another name.
    """
    for taken in root.glob("*/*/weights/*"):
        if taken.name.lower() != name.lower():
            for file in taken.glob(f"*{checkpoint.SUFFIX}"):
                if checkpoint.read_info(file).weights_hash == weights_hash:
                    raise BundleError(f"these weights are published as {taken.name!r}: a model is published once")
            continue
        if taken.name != name:
            raise BundleError(f"name {name!r} differs from {taken.name!r} in its case alone: choose another --name")
        # None where a publication was cut short.
        hashes = {checkpoint.read_info(file).weights_hash for file in taken.glob(f"*{checkpoint.SUFFIX}")}
        if hashes and weights_hash not in hashes:
            raise BundleError(f"name {name!r} is that of another model in {taken.parents[1]}: choose another --name")


def board_of(record: Record, root: Path) -> Path:
    """The folder of the leaderboard that a record belongs to."""
    return root / record.data_name / record.threat.slug


def _publish_record(record: Record, evaluations: Path) -> None:
    """Copy a record and its images; the record comes last, since nothing sees an evaluation without one."""
    assert record.path is not None  # it was evaluated from a checkpoint
    source = record.path.parent
    for name in (SAMPLES_FILE, RECORD_FILE):
        _write(evaluations / source.name / name, (source / name).read_bytes())


def _publish_info(verification: Verification, records: list[Record], board: Path) -> None:
    """Write RobustBench's entry from our own records, if one of them is of autoattack, as its figure must be."""
    info = verification.info
    assert info is not None
    if any(record.suite == "autoattack" for record in records):
        about = {"authors": info.authors, "link": info.link, "venue": info.venue, "name": info.name}
        entry = model_info.from_records(records, additional_data=info.additional_data, **about)
        model_info.write(entry, board / "model_info" / f"{verification.name}.json")


def _publish_verdicts(verification: Verification, path: Path) -> None:
    """Write the verdicts, with those given before on other records of the same weights."""
    found, before, found_on = verification.verified(), read_verified(path), verification.date
    if before is not None and before.weights_hash == found.weights_hash:
        new = {verdict.record: verdict for verdict in found.verdicts}
        # One that came out again as it was keeps its date, so that repeating a publication changes nothing.
        same = {v.record for v in before.verdicts if v.record in new and replace(v, date=found_on) == new[v.record]}
        old = tuple(verdict for verdict in before.verdicts if verdict.record not in new or verdict.record in same)
        added = tuple(verdict for verdict in found.verdicts if verdict.record not in same)
        found = replace(found, verdicts=old + added, earlier=before.earlier)
    _write(path, (json.dumps(found.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file unless it holds that already: repeating a publication touches nothing."""
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)
