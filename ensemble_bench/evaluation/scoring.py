"""Scoring: run a suite over images block by block, and gather a row an image."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from torch import Tensor

from ensemble_bench.attacks import Attack
from ensemble_bench.attacks.engine import Chain
from ensemble_bench.evaluation.block import Bench, Rows, attack_block, clean_block, column
from ensemble_bench.evaluation.draws import Shares
from ensemble_bench.evaluation.job import Array, Bools, Carried, Job
from ensemble_bench.evaluation.journal import Entry, Journal
from ensemble_bench.evaluation.stage import StageScore
from ensemble_bench.evaluation.suite_progress import SuiteProgress
from ensemble_bench.evaluation.triage import Look, look, nearest_first
from ensemble_bench.records import ADVERSARIAL_PREDICTION, EXPECTED, EXPECTED_CLEAN


@dataclass(kw_only=True)
class Scores:
    """The scores of a job: a row an image in `samples`, and the stages of every attack."""

    samples: pd.DataFrame
    stages: dict[str, tuple[StageScore, ...]] = field(default_factory=dict)
    """Of every attack; most have a single stage."""
    unstable: int = 0
    """Images whose clean prediction changed when the model was asked again."""
    classes: int = 0
    """Classes of the model."""
    fell_at: Array = field(default_factory=lambda: np.empty(0, dtype=object))
    """Name of the stage that broke every image, None for those that none did."""
    shares: Shares | None = None
    """Of a model that answers at random, after all attacks."""
    expected: dict[str, Array] = field(default_factory=dict)
    """Of such a model, by attack, the share of draws that are right on every image: in a cascade after all before."""
    look: Look | None = None
    """What was seen of the model's margins before a triage, where there was one."""


@dataclass(kw_only=True, eq=False)
class _Fates:
    """What has become of every image so far.

    Those classified `correct` are to be attacked; those `standing` have withstood all attacks so far. Of the others
    `broken_by` names the attack, `fell_at` its stage, and `predictions` what they were taken for (-1 for the rest).
    `nearest` are the largest margins that any attack reached.
    """

    correct: Bools
    standing: Bools
    broken_by: Array
    fell_at: Array
    predictions: Array
    nearest: Array

    @classmethod
    def of(cls, correct: Bools) -> "_Fates":
        """Of images that no attack has met."""
        n = len(correct)
        return cls(
            correct=correct,
            standing=correct.copy(),
            broken_by=np.full(n, None, dtype=object),
            fell_at=np.full(n, None, dtype=object),
            predictions=np.full(n, -1, dtype=np.int64),
            nearest=np.full(n, np.nan, dtype=np.float32),
        )

    def carry(self, carried: Carried, scores: Scores) -> None:
        """Images that fell at a smaller eps are broken, and no attack meets them."""
        fallen = self.correct & carried.fallen
        self.correct = self.correct & ~fallen
        self.standing = self.correct.copy()
        self.broken_by[fallen] = carried.name
        if carried.predictions is not None:
            self.predictions[fallen] = carried.predictions[fallen]
        name, broke = carried.name, int(fallen.sum())
        scores.samples[name], scores.samples[f"{name}_steps"], scores.samples[f"{name}_margin"] = (
            self.correct,
            0,
            np.nan,
        )
        scores.stages[name] = (StageScore(name=name, attacked=broke, broken=broke),)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """An attack of a job, the one of that `number`, and what it does to every image, written in place.

    `shares` are those of a model that answers at random, on whose images it goes on for as long as a draw is right.
    """

    attack: Attack
    stages: Sequence[Attack]
    number: int
    fates: _Fates
    robust: Bools
    steps: Array
    margin: Array
    shares: Shares | None

    @property
    def targets(self) -> Bools:
        """Images that are still to be attacked."""
        return self.robust if self.shares is None else self.shares.open


def score(job: Job, journal: Journal) -> Scores:
    """Run every attack of `job`; blocks of images that the journal holds are not run again.

    Raises AttackError, naming the attack, for one that breaks the rules or fails; finished blocks stay in the journal.
    """
    logits: dict[int, Tensor] = {}
    clean = [clean_block(job, journal, i, block, logits) for i, block in enumerate(job.blocks)]
    scores = _clean_scores(job, clean)
    fates = _Fates.of(scores.samples["clean"].to_numpy(copy=True))
    if job.carried is not None:
        fates.carry(job.carried, scores)
    parts = [attack.parts(job.model) for attack in job.attacks]
    told = SuiteProgress(
        job.progress,
        job.label,
        parts,
        one_in=[job.one_in.get(attack.name, 1) for attack in job.attacks],
        cascade=job.cascade,
        correct=int(fates.correct.sum()),
        forecast=job.forecast,
    )
    bench = Bench(job=job, journal=journal, told=told, logits=logits)
    scores.look = look(job, journal, fates.correct) if job.one_in else None
    # The first attack that ranks images pays for the look at their margins.
    pays = next((attack.name for attack in job.attacks if attack.name in job.one_in), None)
    for number, attack in enumerate(job.attacks):
        # An image that is wrong clean, or that fell to an earlier attack of a cascade, is not robust to this one.
        robust = (fates.standing if job.cascade else fates.correct).copy()
        run = _Run(
            attack=attack,
            stages=parts[number],
            number=number,
            fates=fates,
            robust=robust,
            steps=np.zeros(len(robust), dtype=np.int32),
            margin=np.full(len(robust), np.nan, dtype=np.float32),
            shares=scores.shares if job.cascade or scores.shares is None else Shares.of(clean),
        )
        stages = _triaged(bench, run, scores.look)
        if scores.look is not None and attack.name == pays:
            stages = (replace(stages[0], passes=stages[0].passes + scores.look.passes), *stages[1:])
        _keep(run, stages, scores, covered=attack.covers(job.images.ids).numpy())
        _tell(told, attack.name, stages)
    idle = [attack.name for attack in job.attacks if not scores.stages[attack.name][0].attacked]
    told.close(standing=int(fates.standing.sum()), idle=idle)
    scores.fell_at, scores.samples["broken_by"] = fates.fell_at, fates.broken_by
    if scores.shares is not None:
        scores.samples[EXPECTED_CLEAN], scores.samples[EXPECTED] = scores.shares.clean, scores.shares.reported
    scores.samples[ADVERSARIAL_PREDICTION] = pd.arrays.IntegerArray(fates.predictions, mask=fates.predictions < 0)
    return scores


def _clean_scores(job: Job, clean: Sequence[Entry]) -> Scores:
    """What is known before any attack, from the entries of the blocks."""
    labels, prediction = job.images.labels.numpy(), column(clean, "prediction").astype(np.int64)
    samples = {
        "id": job.images.ids.numpy(),
        "label": labels,
        "clean_prediction": prediction,
        "clean": prediction == labels,
    }
    return Scores(
        samples=pd.DataFrame(samples),
        unstable=sum(entry["unstable"] for entry in clean),
        classes=clean[0]["classes"],
        shares=None if job.drawn is None else Shares.of(clean),
    )


def _keep(run: _Run, stages: tuple[StageScore, ...], scores: Scores, *, covered: Bools) -> None:
    """Write down what an attack did; images that it does not cover have no entry in its column."""
    name, fates = run.attack.name, run.fates
    scores.stages[name] = stages
    if run.shares is not None and scores.shares is not None:
        scores.expected[name] = run.shares.reported.copy()
        scores.shares.take(run.shares)
    np.fmax(fates.nearest, run.margin, out=fates.nearest)
    robust = run.robust if covered.all() else pd.arrays.BooleanArray(run.robust, mask=~covered)
    for key, values in ((name, robust), (f"{name}_steps", run.steps), (f"{name}_margin", run.margin)):
        scores.samples[key] = values
    fallen = fates.standing & covered & ~run.robust
    fates.broken_by[fallen] = name
    fates.standing &= ~fallen


def _tell(told: SuiteProgress, name: str, stages: Sequence[StageScore]) -> None:
    """Report that an attack is over, unless there was nothing for it to attack."""
    if stages[0].attacked:
        told.attack_ended(
            name,
            met=stages[0].attacked,
            broken=sum(stage.broken for stage in stages),
            stages=len(stages),
            passes=sum(stage.passes for stage in stages),
            seconds=sum(stage.seconds for stage in stages),
        )


def _triaged(bench: Bench, run: _Run, seen: Look | None) -> tuple[StageScore, ...]:
    """Run an attack on the images that stand, or on the nearest of every block and on twice as many while some fall.

    Blocks are ranked apart, because each may be attacked by a process of its own; one whose margins were `seen` to tell
    nothing is met as a whole.
    """
    job = bench.job
    one_in = job.one_in.get(run.attack.name, 1)
    standing, scored = run.targets & run.attack.covers(job.images.ids).numpy(), dict[str, StageScore]()
    queues = [nearest_first(block, standing, run.fates.nearest) for block in job.blocks]
    tells = [seen is None or seen.tells(block) for block in range(len(queues))]
    sizes = [-(-len(queue) // (one_in if tell else 1)) for queue, tell in zip(queues, tells, strict=True)]
    for turn in itertools.count(1):
        met, before = np.zeros_like(run.robust), run.robust.copy()
        for queue, size in zip(queues, sizes, strict=True):
            met[queue[:size]] = True
        for stage in _stages(bench, run, met, turn=turn):
            scored[stage.name] = scored[stage.name] + stage if stage.name in scored else stage
        # A block of which none fell has had its turn.
        queues = [
            queue[size:] if (before & ~run.robust)[queue[:size]].any() else queue[:0]
            for queue, size in zip(queues, sizes, strict=True)
        ]
        if not any(map(len, queues)):
            break
        sizes = [2 * size for size in sizes]
    return tuple(scored.values())


def _stages(bench: Bench, run: _Run, met: Bools, *, turn: int) -> Iterator[StageScore]:
    """Run the stages of an attack on the images `met`, and update its arrays.

    Where nothing is left to attack, nothing is run, and no further stage begins.
    """
    job, fates, broke = bench.job, run.fates, list[int]()
    for at, stage in enumerate(run.stages):
        entries: list[Entry] = []
        targets = run.targets & met & stage.covers(job.images.ids).numpy()
        if not targets.any():
            if at == 0:
                yield StageScore(name=stage.name, attacked=0, broken=0)
            return
        bench.told.enter(run.number, at, stage.name, targets=int(targets.sum()))
        name = stage.name if turn == 1 else f"{stage.name} turn {turn}"
        left = int(run.robust.sum())
        for index, block in enumerate(job.blocks):
            rows = Rows(targets=targets[block], robust=run.robust[block], fresh=fates.standing[block])
            entries.append(attack_block(bench, stage, name, index, rows, standing=left))
            left -= sum(entries[-1]["broken"])
        broken = column(entries, "broken").astype(bool)
        if run.shares is not None:
            run.shares.lower(entries)
        np.add(run.steps, column(entries, "steps").astype(np.int32), out=run.steps)
        np.fmax(run.margin, column(entries, "margin").astype(np.float32), out=run.margin)
        np.logical_and(run.robust, ~broken, out=run.robust)
        predicted = np.concatenate([e.get("predicted", [-1] * len(e["broken"])) for e in entries]).astype(np.int64)
        fell = broken & fates.standing
        fates.predictions[fell], fates.fell_at[fell] = predicted[fell], stage.name
        broke.append(int(broken.sum()))
        yield StageScore(
            name=stage.name,
            attacked=int(targets.sum()),
            broken=broke[-1],
            **{key: sum(e[key] for e in entries) for key in ("seconds", "passes", "zero_gradients")},
        )
        if isinstance(run.attack, Chain) and run.attack.is_over(broke):
            return
