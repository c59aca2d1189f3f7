"""RobustBench's leaderboard (Croce et al. 2021) and our records in one ranked table."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ensemble_bench.errors import RecordError, UnknownNameError
from ensemble_bench.leaderboard import model_info
from ensemble_bench.leaderboard.model_info import STRONGEST, architecture_text, data_note, holds, images_of, on_a_line
from ensemble_bench.leaderboard.ranking import NO_CONTEST
from ensemble_bench.records import Record, Threat
from ensemble_bench.records.table import Cell, Table, Value

DECIMALS = 6  # of a fraction; RobustBench's have four, and differ in their last bits from a quotient
# RobustBench counts eps = 0.031 among 8/255.
NEAR = 0.5 / 255
HEADINGS = {
    "rank": "#",
    "model": "model",
    "source": "source",
    "architecture": "architecture",
    "clean_accuracy": "clean",
    "autoattack": "AutoAttack",
    "best_known": "best known",
    "forward_passes": "passes",
    "additional_data": "extra data",
    "notes": "notes",
    "venue": "venue",
}


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A row before it has its rank."""

    model: str
    source: str
    architecture: str
    clean: float
    autoattack: float | None
    best_known: Value
    forward_passes: int
    additional_data: bool | None
    notes: str
    venue: str | None
    comparable: bool

    @property
    def score(self) -> float:
        """What ranks: equal for what is written as 65.88 % and for 6,588 of 10,000 images."""
        return round(self.best_known.accuracy, DECIMALS)

    def cells(self, rank: int | None) -> tuple[Cell, ...]:
        extra = None if self.additional_data is None else "yes" if self.additional_data else "no"
        autoattack = None if self.autoattack is None else Value(accuracy=self.autoattack)
        scores = (Value(accuracy=self.clean), autoattack, self.best_known)
        about = (rank, self.model, self.source, self.architecture)
        return (*about, *scores, self.forward_passes, extra, self.notes or None, self.venue)


def beside_robustbench(
    folder: Path, records: Iterable[Record], *, threat: Threat | None = None, dataset: str = "cifar10"
) -> Table:
    """RobustBench's entries below its model_info `folder` and our `records`, for one data set and threat model.

    `threat` defaults to linf 8/255. Ranked by the best known robust accuracy, equal ones alike: theirs is the external
    evaluation where there is one, else AutoAttack; ours the worst case of the suites strongest, exhaustive and
    autoattack, and models with none of these are left out. Records on other images than the official ones, of whatever
    number, and what counts as unreliable stand below without a rank, and say so in their notes; entries of another eps
    say so too.

    Raises UnknownNameError for a norm, and RecordError for a folder without such entries or with a broken one.
    """
    threat = threat or Threat(norm="linf", eps=8 / 255)
    if threat.norm not in model_info.NORMS:
        raise UnknownNameError("norm", threat.norm, model_info.NORMS)
    entries = [*_theirs(Path(folder) / dataset / model_info.NORMS[threat.norm], threat)]
    entries += _ours(record for record in records if record.dataset == dataset and _near(record.threat, threat))
    entries.sort(key=lambda e: (not e.comparable, -e.score, -e.clean, e.source, e.model, e.notes))
    ranked = [entry.score for entry in entries if entry.comparable]
    pairs = math.comb(len(ranked), 2)
    return Table(
        name="beside_robustbench",
        title=f"RobustBench and ours: {dataset}, {threat}",
        caption=(
            "Accuracy in %, ranked by the best known robust accuracy: RobustBench's external evaluation where there is "
            "one, else AutoAttack; ours under the suites strongest, exhaustive and autoattack, with its 95 % interval. "
            f"RobustBench scores all of {dataset}'s test images: where ours are others, or a number is contested, "
            "notes say so instead of a rank. "
            f"A rank is no test: none of the {pairs:,} comparisons between ranked models is tested here."
        ),
        columns=tuple(HEADINGS.values()),
        keys=tuple(HEADINGS),
        rows=tuple(entry.cells(1 + ranked.index(entry.score) if entry.comparable else None) for entry in entries),
        about={"dataset": dataset, "threat": str(threat)},
    )


def _theirs(folder: Path, threat: Threat) -> Iterator[_Entry]:
    infos = model_info.read_all(folder)
    near = {model: info for model, info in infos.items() if abs((info.radius or 0) - threat.eps) < NEAR}
    if not near:
        have = ", ".join(sorted({str(info.eps) for info in infos.values()}))
        raise RecordError(f"{folder}: no entries for eps {threat.eps_text}, only for {have}")
    for model, info in near.items():
        if info.autoattack is None or info.best_known is None:
            continue
        notes = ["unreliable"] if info.unreliable else []
        if info.eps != threat.eps_text:
            notes.append(f"eps {info.eps}")
        yield _Entry(
            model=model,
            source="RobustBench",
            architecture=on_a_line(info.architecture),
            clean=info.clean,
            autoattack=info.autoattack,
            best_known=Value(accuracy=info.best_known),
            forward_passes=info.number_forward_passes,
            additional_data=info.additional_data,
            notes="; ".join(notes),
            venue=on_a_line(info.venue) or None,
            comparable=not info.unreliable,
        )


def _ours(records: Iterable[Record]) -> Iterator[_Entry]:
    """A row for every model and set of images."""
    grouped: dict[object, list[Record]] = {}
    for record in records:
        if record.view is None and holds(record, "autoattack", *STRONGEST):
            key = record.model, record.weights_hash, images_of(record)
            grouped.setdefault(key, []).append(record)
    for same in grouped.values():
        best = min(same, key=_robust)
        autoattack = min((record for record in same if record.suite == "autoattack"), key=_robust, default=None)
        names = {warning.name for record in same for warning in record.warnings}
        warnings = sorted(names - NO_CONTEST)
        notes = [f"unreliable: {', '.join(warnings)}" if warnings else "", data_note(best)]
        yield _Entry(
            model=best.model,
            source="ours",
            architecture=architecture_text(best),
            clean=best.clean.accuracy,
            autoattack=None if autoattack is None else autoattack.robust.accuracy,
            best_known=Value.of(best.robust),
            forward_passes=best.forward_passes,
            additional_data=None if best.recipe is None else False,
            notes="; ".join(filter(None, notes)),
            venue=None,
            comparable=not warnings and not data_note(best),
        )


def _robust(record: Record) -> float:
    return record.robust.accuracy


def _near(one: Threat, other: Threat) -> bool:
    return one.norm == other.norm and abs(one.eps - other.eps) < NEAR
