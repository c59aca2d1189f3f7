"""The parts of a run (members, ensemble, logit average) under the suite `appendix`, for Table 2 and Figure 3."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ensemble_bench.records import CARRIED, AttackResult, Record
from ensemble_bench.records.text import carried_eps, natural
from ensemble_bench.reports.groups import BEST, Group, Scored, group_of, grouped, place

SUITE = "appendix"
ENSEMBLE, LOGIT = "Ensemble", "Ensemble (remove softmax)"


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """A run's best checkpoint under the suite `appendix`: the records of its parts, all of the same images.

    `parts` are in the table's order: "Model 1", "Model 2", …, "Ensemble", "Ensemble (remove softmax)". `carried` is the
    smaller eps whose fallen images count as fallen, None without one.
    """

    group: Group
    run: str
    split: str
    n: int
    carried: float | None
    parts: Mapping[str, Record]

    @property
    def scored(self) -> Scored:
        """The run, as captions name it."""
        return Scored(record=next(iter(self.parts.values())))

    @property
    def is_single(self) -> bool:
        """Whether it is one network, which has no parts."""
        return all(record.view is None and record.forward_passes == 1 for record in self.parts.values())


def run_parts(records: Iterable[Record]) -> list[RunParts]:
    """Collect the parts of each run, in the paper's order of recipes."""
    chosen = [record for record in records if record.suite == SUITE and record.checkpoint in BEST]
    runs = []
    for key, own in grouped(chosen, _key).items():
        group, split, n, carried, *_, run, _ = key
        parts = {_label(record, own): record for record in sorted(own, key=lambda r: (_order(r.view), r.id))}
        runs.append(RunParts(group=group, run=run, split=split, n=n, carried=carried or None, parts=parts))
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
    return int(steps) if name == attack.name and "-doubled" in name and steps.isdigit() else None


def _key(record: Record) -> tuple[Group, str, int, float, int, str, tuple[int, ...], str, str]:
    scored = Scored(record=record)
    measured = group_of(record), record.split, record.n, carried_eps(record) or 0.0
    return *measured, place(scored.recipe), record.recipe or "", record.seeds, record.run, record.weights_hash


def _order(view: str | None) -> tuple[int, list[tuple[bool, int, str]]]:
    """Members first, by number, then the whole, then the logit average."""
    return (1, []) if view is None else (2, []) if view == "logit" else (0, natural(view))


def _label(record: Record, own: Iterable[Record]) -> str:
    """Name of the row; a part that was evaluated several times (another seed, say) is told apart by its record."""
    number = (record.view or "").removeprefix("member")
    label = {"": ENSEMBLE, "logit": LOGIT}.get(number, f"Model {number}")
    several = sum(other.view == record.view for other in own) > 1
    return f"{label} ({record.id[:8]})" if several else label
