"""Evaluate published models by the rules of their boards, as their operator: what was unranked may get a rank."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from ensemble_bench import data
from ensemble_bench.errors import (
    AttackError,
    CheckpointError,
    DataError,
    InvalidValueError,
    RecordError,
    UnknownNameError,
)
from ensemble_bench.leaderboard.published import name_of
from ensemble_bench.leaderboard.ranking import Standing, standings
from ensemble_bench.leaderboard.rules import rules_file
from ensemble_bench.models import checkpoint
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import Record, find_records
from ensemble_bench.records.conditions import DIRTY
from ensemble_bench.registry.terms import TEST, VERIFIED
from ensemble_bench.submissions import audit, publishing
from ensemble_bench.submissions.bench import Asked, Bench, asked_by, evaluated, rules_on
from ensemble_bench.submissions.verification import Verification
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import resolve_device
from ensemble_bench.training.provenance import commit


@dataclass(frozen=True, kw_only=True)
class Reevaluated:
    """A published model after its evaluation: the record and where it stands, or the `reason` why there is none."""

    name: str
    board: Path
    record: Record | None = None
    standing: Standing | None = None
    reason: str = ""


def reevaluate(
    root: str | Path,
    *,
    models: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    work: str | Path,
    runs: str | Path = "runs",
    progress: Progress = silent,
) -> list[Reevaluated]:
    """Evaluate published models below `root` by the rules of their boards (suite, n, seed, with the probe).

    By default those without a rank, else the `models` of these names. The records, and the operator's verdict on each,
    are added to what is published; a model that cannot be evaluated has the reason. `work` keeps what an interrupted
    call did, to go on from there, and the black-box set lies below `runs`. Raises UnknownNameError for a name that is
    not published, CheckpointError where nothing is, DataError for rules that cannot be followed or images that are not
    those of the board, and InvalidValueError where rules want a clean tree and this one is not, before anything runs.
    """
    root, work = Path(root), Path(work)
    homes = [home for home in sorted(root.glob("*/*/weights/*")) if any(home.glob(f"*{checkpoint.SUFFIX}"))]
    if not homes:
        raise CheckpointError(f"{root}: no published models")
    names = {home.name for home in homes}
    for name in models or ():
        if name not in names:
            raise UnknownNameError("published model", name, names)
    ranked = _ranked(homes) if models is None else set()
    chosen = [home for home in homes if (home not in ranked if models is None else home.name in models)]
    bench = Bench(runs=Path(runs), data_dir=data_dir, device=resolve_device(device), progress=progress)
    benches = {board: _prepared(board, bench) for board in dict.fromkeys(home.parents[1] for home in chosen)}
    return [_reevaluated(home, benches[home.parents[1]], work) for home in chosen]


@dataclass(frozen=True, kw_only=True)
class _Board:
    """A board with what it is evaluated on, by its rules."""

    bench: Bench
    asked: Asked
    source: data.DataSource
    threat: ThreatModel
    operator: str


def _ranked(homes: Iterable[Path]) -> set[Path]:
    """The homes of models that have a rank."""
    found = set()
    for board in {home.parents[1] for home in homes}:
        records = [record for record in find_records(board / "records") if record.view is None]
        places = zip(records, standings(records), strict=True)
        found |= {board / "weights" / name_of(record) for record, standing in places if standing.rank is not None}
    return found


def _prepared(board: Path, bench: Bench) -> _Board:
    """Images, threat and rules of a board; raises as `reevaluate`."""
    known = next((record for record in find_records(board / "records") if record.view is None), None)
    if known is None:
        raise RecordError(f"{board / 'records'}: no record says of what data set and threat this board is")
    source = data.open_source(known.dataset, bench.data_dir)
    if source.name != known.data_name:
        raise DataError(f"{board} is a board on {known.data_name}: here is {source.name}")
    rules = rules_on(board, source)
    if rules.clean and (commit() or "").endswith(DIRTY):
        raise InvalidValueError(
            f"{rules_file(board) or board} ranks evaluations from clean trees alone: commit the changes of this one"
        )
    return _Board(
        bench=replace(bench, blackbox=rules.blackbox),
        asked=asked_by(rules, source),
        source=source,
        threat=ThreatModel(**known.threat.as_dict()),
        operator=rules.operator,
    )


def _reevaluated(home: Path, board: _Board, work: Path) -> Reevaluated:
    """One model, evaluated on a copy of its weights, and what it got published."""
    name, place = home.name, home.parents[1]
    try:
        path = checkpoint.find(home)
        info = checkpoint.read_info(path)
        copy = work / place.parent.name / place.name / name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        for file in (path.with_suffix(".json"), path):
            shutil.copyfile(file, copy.with_suffix(file.suffix))
        records = evaluated(copy, board.asked, board.threat, board.source, board.bench)
        flags = audit.fit_of(checkpoint.load(copy), board.source, board.bench.device).flags
    except (AttackError, CheckpointError, InvalidValueError) as error:
        return Reevaluated(name=name, board=place, reason=str(error))
    publishing.add(
        Verification(
            name=name,
            status=VERIFIED,
            records=tuple(records),
            flags=flags,
            images=len(board.source.split(TEST)),
            operator=board.operator,
            weights_hash=info.weights_hash,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        place,
    )
    whole = next(record for record in records if record.view is None)
    everything = [record for record in find_records(place / "records") if record.view is None]
    places = zip(everything, standings(everything), strict=True)
    standing = next(found for record, found in places if (name_of(record), record.id) == (name, whole.id))
    return Reevaluated(name=name, board=place, record=whole, standing=standing)
