"""The parts of a run (members, ensemble, logit average) under the suite `appendix`, for Table 2 and Figure 3."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ensemble_bench.records import CARRIED, AttackResult, Record, folder_of
from ensemble_bench.records.text import carried_eps, natural
from ensemble_bench.reports.groups import (
    Group,
    OfScored,
    Scored,
    group_of,
    grouped,
    headlines,
    home_of,
    place,
    told_apart,
)

SUITE = "appendix"
ENSEMBLE, LOGIT = "Ensemble", "Ensemble (remove softmax)"


@dataclass(frozen=True, kw_only=True)
class RunParts(OfScored):
    """A run's headline checkpoint under the suite `appendix`: the records of its parts, all of the same images.

    `parts` are in the table's order: "Model 1", "Model 2", …, "Ensemble", "Ensemble (remove softmax)". Of several
    evaluations of a part the lowest accuracy stands, as each bounds it from above; `again` holds the others. `carried`
    is the smaller eps whose fallen images count as fallen, None without one. `scored` is the run, as rows name it.
    """

    group: Group
    split: str
    n: int
    carried: float | None
    parts: Mapping[str, Record]
    again: Mapping[str, tuple[Record, ...]]

    @property
    def is_single(self) -> bool:
        """Whether it is one network, which has no parts."""
        return all(record.view is None and record.forward_passes == 1 for record in self.parts.values())

    @property
    def alike(self) -> Mapping[str, Any]:
        """The parts, and what their records have to share."""
        each = {label: Scored(record=record).alike for label, record in self.parts.items()}
        return {"parts": list(self.parts), **each}

    @property
    def preference(self) -> tuple[Any, ...]:
        """As records: the folder nearest to the root stands."""
        return self.scored.preference


def run_parts(records: Iterable[Record]) -> list[RunParts]:
    """Collect the parts of each run, in the paper's order of recipes."""
    records = told_apart(records)
    own = [record for record in records if record.suite == SUITE]
    known, met = headlines(records), headlines(own)
    runs = []
    chosen = [record for record in own if record.checkpoint == met[home_of(record)]]
    for (group, split, n, carried, *_), same in grouped(chosen, _key).items():
        views = sorted({record.view for record in same}, key=_order)
        lowest = [
            sorted((record for record in same if record.view == view), key=lambda r: (r.robust.accuracy, r.id))
            for view in views
        ]
        first = next((each[0] for each in lowest if each[0].view is None), lowest[0][0])
        runs.append(
            RunParts(
                group=group,
                split=split,
                n=n,
                carried=carried or None,
                parts={_label(each[0]): each[0] for each in lowest},
                again={_label(each[0]): tuple(each[1:]) for each in lowest if len(each) > 1},
                scored=Scored(record=first, beside=first.checkpoint != known[home_of(first)]),
            )
        )
    return runs


def doublings(attack: AttackResult, n: int) -> list[tuple[int, float]] | None:
    """Return, for every doubling that ran, its steps and the accuracy after it and all before; None for other attacks.

    `n` is the number of images that the accuracy is of.
    """
    if attack.stages is None:
        first = (attack.settings.get("stages") or [{}])[0]
        steps = _steps(attack, str(first.get("name")))
        return None if steps is None else [(steps, attack.robust / n)]
    points, standing = [], attack.stages[0].attacked
    for stage in attack.stages:
        steps = _steps(attack, stage.name)
        if steps is None:
            return None
        standing -= stage.broken
        points.append((steps, standing / n))
    return points


def own_attacks(record: Record) -> list[AttackResult]:
    """Return the attacks of the record, without the images carried over from a smaller eps that stand among them."""
    return [attack for attack in record.attacks if attack.name != CARRIED]


def name_without_steps(attack: AttackResult) -> str:
    """Return the name of an attack without its steps: "margin" for margin-doubled1280."""
    return re.sub(r"(-doubled)?-?\d+$", "", attack.name)


def _steps(attack: AttackResult, stage: str) -> int | None:
    """Steps of a doubling, from its name: 20 for margin-doubled1280/20."""
    name, _, steps = stage.rpartition("/")
    return int(steps) if name == attack.name and "-doubled" in name and steps.isascii() and steps.isdigit() else None


def _key(record: Record) -> tuple[Group, str, int, float, int, str, tuple[int, ...], str, str, str]:
    scored, folder = Scored(record=record), folder_of(record)
    measured = group_of(record), record.split, record.n, carried_eps(record) or 0.0
    where = record.run, "" if folder is None else folder.as_posix()
    return *measured, place(scored.recipe), record.recipe or "", record.seeds, *where, record.weights_hash


def _order(view: str | None) -> tuple[int, list[tuple[bool, int, str]]]:
    """Members first, by number, then the whole, then the logit average."""
    return (1, []) if view is None else (2, []) if view == "logit" else (0, natural(view))


def _label(record: Record) -> str:
    number = (record.view or "").removeprefix("member")
    return {"": ENSEMBLE, "logit": LOGIT}.get(number, f"Model {number}")
