"""Publish a verified model in a folder of leaderboards: its weights and the verifier's own records, no claims."""

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from ensemble_bench.errors import BundleError, CheckpointError, RecordError
from ensemble_bench.files import sha256_file, write_atomic
from ensemble_bench.leaderboard import model_info
from ensemble_bench.leaderboard.board import LEADERBOARD_FILE, leaderboard_csv
from ensemble_bench.leaderboard.published import is_shown, name_of
from ensemble_bench.leaderboard.verified import read_verified, verified_file
from ensemble_bench.locks import held
from ensemble_bench.models import checkpoint
from ensemble_bench.records import RECORD_FILE, SAMPLES_FILE, Record, find_records
from ensemble_bench.registry.terms import VERIFIED
from ensemble_bench.submissions.bundling import credit_of
from ensemble_bench.submissions.format import archive, card
from ensemble_bench.submissions.placing import placed
from ensemble_bench.submissions.verification import Verification

LOCK = ".publishing.lock"
PATIENCE = 600.0
"""Seconds to wait for another publication, which takes moments: hours of attacks may stand behind this one."""


def publish(verification: Verification, folder: str | Path, root: str | Path) -> Path:
    """Publish the model that was verified, from its bundle unpacked in `folder`, below `root`; returns its board.

    The board is <root>/<data name>/<threat>. All its files appear, the verdict last, or none does: whatever is raised,
    the board is as it was. A call that was killed is completed by calling again, and shows nothing until then;
    repeating a complete one changes nothing. One is published below `root` at a time. Raises BundleError for a
    submission that is not verified, other weights than those verified, and a name that other weights have; RecordError
    for a damaged record elsewhere on the board; BusyError where another publication does not end.
    """
    folder, root = Path(folder), Path(root)
    if verification.status != VERIFIED or verification.name is None or verification.info is None:
        raise BundleError(f"{verification.name or folder}: {verification.status}, so it is not published")
    name, records = verification.name, verification.records
    weights = folder / archive.WEIGHTS
    if sha256_file(weights) != verification.weights_hash:
        raise BundleError(f"{weights}: not the weights that were verified")
    board = board_of(records[0], root)
    with _alone(root):
        stem = Path(records[0].model).name
        check_free(f"{name}/{stem}", str(verification.weights_hash), root)
        config = (folder / archive.CONFIG).read_bytes()
        known = find_records(board / "records") if (board / "records").is_dir() else []
        before = [r for r in known if r.weights_hash == verification.weights_hash and name_of(r) == name]
        ours = list({record.id: record for record in (*before, *records)}.values())
        about = card.render(name, json.loads(config), ours, credit=credit_of(verification.info))
        home = board / "weights" / name
        files: dict[Path, bytes | Path] = {
            home / f"{stem}.json": config,
            home / f"{stem}{checkpoint.SUFFIX}": weights,
            home / archive.CARD: about.encode(),
            **_info(verification, ours, board),
        }
        _place(files | _records_and_verdicts(verification, board), board)
    return board


def add(verification: Verification, board: Path) -> None:
    """Add the records and verdicts of a verification to a model that is published on `board` already, or nothing.

    Raises BusyError as `publish`.
    """
    with _alone(board.parents[1]):
        _place(_records_and_verdicts(verification, board), board)


def withdraw(name: str, weights_hash: str, root: Path) -> None:
    """Remove what a publication of these weights that was cut short left below `root`: files of a name, no verdict.

    Raises BusyError as `publish`.
    """
    with _alone(root):
        for home in root.glob(f"*/*/weights/{name}"):
            board = home.parents[1]
            if not verified_file(board, name).exists() and _hashes(home) <= {weights_hash}:
                (board / "model_info" / f"{name}.json").unlink(missing_ok=True)
                shutil.rmtree(board / "records" / name, ignore_errors=True)
                shutil.rmtree(home)


def check_free(model: str, weights_hash: str, root: Path) -> None:
    """Raise BundleError for a `model`, such as "mine/best", whose name other weights have, but for its case or not.

    So it does for weights that are published under another name, or as another checkpoint: on a board they would be two
    models. RecordError for a published model that is damaged.
    """
    name, stem = model.split("/")
    for taken in root.glob("*/*/weights/*"):
        if taken.name.lower() != name.lower():
            if weights_hash in _hashes(taken):
                raise BundleError(f"these weights are published as {taken.name!r}: a model is published once")
            continue
        if taken.name != name:
            raise BundleError(f"name {name!r} differs from {taken.name!r} in its case alone: choose another --name")
        # None where a publication was cut short.
        hashes = _hashes(taken)
        if hashes and weights_hash not in hashes:
            raise BundleError(f"name {name!r} is that of another model in {taken.parents[1]}: choose another --name")
        if hashes and not (taken / f"{stem}{checkpoint.SUFFIX}").exists():
            known = min(file.stem for file in taken.glob(f"*{checkpoint.SUFFIX}"))
            raise BundleError(f"these weights are published as {name}/{known}, not {stem}: a model is published once")


def _alone(root: Path) -> AbstractContextManager[int | None]:
    """Keep other publications away: names are looked up, and boards rendered, from what all of them put there."""
    return held(root, "publication", name=LOCK, wait=PATIENCE)


def _hashes(home: Path) -> set[str]:
    """Hashes of the weights in a published model's folder."""
    try:
        return {checkpoint.read_info(file).weights_hash for file in home.glob(f"*{checkpoint.SUFFIX}")}
    except CheckpointError as error:
        raise RecordError(f"published model {home.name}: {error}") from None


def board_of(record: Record, root: Path) -> Path:
    """The folder of the leaderboard that a record belongs to."""
    return root / record.data_name / record.threat.slug


def _place(files: Mapping[Path, bytes | Path], board: Path) -> None:
    """Put files of a publication in their places, and render the board with them."""
    with placed(files, board):
        everything = filter(is_shown, find_records(board / "records"))
        write = leaderboard_csv(everything, root=board).encode()
        if not (path := board / LEADERBOARD_FILE).is_file() or path.read_bytes() != write:
            write_atomic(path, write)


def _records_and_verdicts(verification: Verification, board: Path) -> dict[Path, bytes | Path]:
    """The records with their images, and last what makes them seen: the verdicts."""
    name, files = str(verification.name), dict[Path, bytes | Path]()
    for record in verification.records:
        assert record.path is not None  # it was evaluated from a checkpoint
        source = record.path.parent
        for file in (SAMPLES_FILE, RECORD_FILE):
            files[board / "records" / name / "evaluations" / source.name / file] = source / file
    return files | {verified_file(board, name): _verdicts(verification, verified_file(board, name))}


def _info(verification: Verification, records: list[Record], board: Path) -> dict[Path, bytes | Path]:
    """RobustBench's entry from our own records, if one of them is of autoattack, as its figure must be."""
    info = verification.info
    assert info is not None
    if not any(record.suite == "autoattack" for record in records):
        return {}
    about = {"authors": info.authors, "link": info.link, "venue": info.venue, "name": info.name}
    entry = model_info.from_records(records, additional_data=info.additional_data, **about)
    return {board / "model_info" / f"{verification.name}.json": model_info.to_json(entry).encode()}


def _verdicts(verification: Verification, path: Path) -> bytes:
    """The verdicts, with those given before on other records of the same weights, which `path` holds."""
    found, before, found_on = verification.verified(), read_verified(path), verification.date
    if before is not None and before.weights_hash == found.weights_hash:
        new = {verdict.record: verdict for verdict in found.verdicts}
        # One that came out again as it was keeps its date, so that repeating a publication changes nothing.
        same = {v.record for v in before.verdicts if v.record in new and replace(v, date=found_on) == new[v.record]}
        old = tuple(verdict for verdict in before.verdicts if verdict.record not in new or verdict.record in same)
        added = tuple(verdict for verdict in found.verdicts if verdict.record not in same)
        found = replace(found, verdicts=old + added, earlier=before.earlier)
    return (json.dumps(found.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
