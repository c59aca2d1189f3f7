"""Is the jointly trained ensemble more robust than its budget spent otherwise? Shown, not shown or the opposite."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.errors import RecordError
from ensemble_bench.records import Record, read_samples, worst_case
from ensemble_bench.records.statistics import McNemar, mcnemar
from ensemble_bench.records.text import carried_eps, seeds_text
from ensemble_bench.registry import RECIPES
from ensemble_bench.reports.alike import by_recipe
from ensemble_bench.reports.groups import Group, Scored, group_of, grouped, headline_models

ALPHA = 0.05
# Of every recipe that has rivals: the ensemble, the rival, and what the rival is.
COMPARISONS = tuple(
    (recipe.name, rival, "networks trained apart" if RECIPES[rival].joins else "a single model")
    for recipe in RECIPES.values()
    for rival in recipe.rivals
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Two models on the same images: the difference of their worst-case accuracies, and how sure it is.

    `difference` is a fraction (ensemble less rival); `test` counts images that only the ensemble (a) or only the rival
    (b) gets right under every attack, with the exact McNemar p-value, not corrected for the number of comparisons.
    `parameters` are the rival's, as a multiple of the ensemble's. `carried` is the smaller eps whose fallen images
    count as fallen, None without one.
    """

    group: Group
    suite: str
    split: str
    n: int
    ensemble: str
    ensemble_seeds: tuple[int, ...]
    rival: str
    rival_seeds: tuple[int, ...]
    kind: str
    parameters: float
    difference: float
    test: McNemar
    carried: float | None = None

    @property
    def outcome(self) -> str:
        """Return "shown" or "opposite shown" where p < 0.05, else "not shown"."""
        if self.test.p_value >= ALPHA:
            return "not shown"
        return "shown" if self.difference > 0 else "opposite shown"

    def __str__(self) -> str:
        p = "p < 0.001" if self.test.p_value < 0.001 else f"p = {self.test.p_value:.3f}"
        points = f"{100 * self.difference:+.1f} points".replace("-", "−")
        ensemble = f"{self.ensemble} (seed {seeds_text(self.ensemble_seeds)})"
        rival = (
            f"{self.rival} (seed {seeds_text(self.rival_seeds)}; {self.kind}, {self.parameters:.2f} × its parameters)"
        )
        return f"{ensemble} is more robust than {rival}: {self.outcome} ({points}, {p})"

    @property
    def where(self) -> str:
        """Images, threat and suite of the comparison."""
        return _where(self.group, self.suite, self.split, self.n, self.carried)


def verdicts(records: Iterable[Record]) -> list[Verdict]:
    """Compare every ensemble with its rivals on the same images, one verdict a pair of seeds, best checkpoints only.

    Raises RecordError when the samples beside a record that is compared are missing or contradict it.
    """
    compared = []
    for same in _comparable(records):
        labels = {run.record.id: label for label, runs in by_recipe(map(_scored, same)).items() for run in runs}
        for ensemble, rival, kind in COMPARISONS:
            compared += [_compare(a, b, kind, labels) for a, b in _pairs(same, ensemble, rival)]
    return compared


def notes_on_missing_verdicts(records: Iterable[Record]) -> list[str]:
    """Return notes on ensembles without a rival on the same images, so that no missing verdict is overlooked."""
    notes = []
    for same in _comparable(records):
        have = {record.recipe for record in same}
        alone = [f"{ours} against {rival}" for ours, rival, _ in COMPARISONS if ours in have and rival not in have]
        if alone:
            a = same[0]
            where = _where(group_of(a), a.suite, a.split, a.n, carried_eps(a))
            notes.append(f"No verdict for {', '.join(alone)}: no record on the same images ({where}).")
    return notes


def _comparable(records: Iterable[Record]) -> list[list[Record]]:
    """Collect best checkpoints that were attacked alike on the same images, each once.

    A black-box set is part of the attack, and so is a smaller eps that was tried before. Of several evaluations of one
    model (with other seeds, or in another precision) the lowest stands: each of them bounds its accuracy from above.
    """

    def key(record: Record) -> tuple[object, ...]:
        blackbox = record.blackbox.hash if record.blackbox else ""
        return (
            group_of(record),
            record.suite,
            record.split,
            record.n,
            record.data_hash,
            blackbox,
            carried_eps(record) or 0.0,
        )

    return [
        [min(same, key=lambda record: (record.robust.robust, record.id)) for same in grouped(alike, _model).values()]
        for alike in grouped(headline_models(records), key).values()
    ]


def _model(record: Record) -> tuple[str, str]:
    return record.model, record.weights_hash


def _scored(record: Record) -> Scored:
    return Scored(record=record)


def _pairs(records: Sequence[Record], ensemble: str, rival: str) -> list[tuple[Record, Record]]:
    """Pair models of the same first seed; only if no seed fits, in the order of their seeds."""
    left = sorted((r for r in records if r.recipe == ensemble), key=lambda r: (r.seeds, r.model, r.id))
    right = sorted((r for r in records if r.recipe == rival), key=lambda r: (r.seeds, r.model, r.id))
    same = [(a, b) for a in left for b in right if a.seeds[:1] == b.seeds[:1]]
    return same or list(zip(left, right, strict=False))


def _compare(a: Record, b: Record, kind: str, labels: Mapping[str, str]) -> Verdict:
    ids_a, robust_a = _robust(a)
    ids_b, robust_b = _robust(b)
    if not np.array_equal(ids_a, ids_b):
        raise RecordError(f"{b.path}: its samples are not the images of {a.path}, though both name the same data")
    return Verdict(
        group=group_of(a),
        suite=a.suite,
        split=a.split,
        n=a.n,
        ensemble=labels[a.id],
        ensemble_seeds=a.seeds,
        rival=labels[b.id],
        rival_seeds=b.seeds,
        kind=kind,
        parameters=b.parameters / a.parameters,
        difference=a.robust.accuracy - b.robust.accuracy,
        test=mcnemar(robust_a, robust_b),
        carried=carried_eps(a),
    )


def _where(group: Group, suite: str, split: str, n: int, carried: float | None) -> str:
    first = "" if carried is None else f", after {replace(group.threat, eps=carried)}"
    return f"{group}{first}, suite {suite}, {split} split, n = {n}"


def _robust(record: Record) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids of the record's images, ascending, and whether each withstood every attack."""
    if record.path is None:
        raise RecordError(f"{record.model}: the record was not read from a file, so its samples are nowhere")
    samples = read_samples(record.path.parent).sort_values("id")
    robust = worst_case(samples)
    if len(robust) != record.n or robust.sum() != record.robust.robust:
        counts = f"{robust.sum()} of {len(robust)} images robust"
        expected = f"{record.robust.robust} of {record.n} images robust"
        raise RecordError(f"{record.path}: {expected}, its samples say {counts}")
    return samples["id"].to_numpy(dtype=np.int64), robust
