"""Scoring: run a suite over images block by block, and gather a row an image."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks import Attack, engine
from ensemble_bench.attacks.engine import Chain
from ensemble_bench.evaluation.draws import SHARES, Shares
from ensemble_bench.evaluation.job import Array, Bools, Job, attempt
from ensemble_bench.evaluation.journal import Entry, Journal, has
from ensemble_bench.evaluation.stage import StageScore
from ensemble_bench.evaluation.suite_progress import SuiteProgress
from ensemble_bench.evaluation.triage import Look, look, nearest_first
from ensemble_bench.models import calling
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


def score(job: Job, journal: Journal) -> Scores:
    """Run every attack of `job`; blocks of images that the journal holds are not run again.

    Raises AttackError, naming the attack, for one that breaks the rules or fails; finished blocks stay in the journal.
    """
    logits: dict[int, Tensor] = {}
    clean = [_clean_block(job, journal, i, block, logits) for i, block in enumerate(job.blocks)]
    correct = _column(clean, "prediction") == job.images.labels.numpy()
    samples = pd.DataFrame(
        {
            "id": job.images.ids.numpy(),
            "label": job.images.labels.numpy(),
            "clean_prediction": _column(clean, "prediction").astype(np.int64),
            "clean": correct,
        }
    )
    scores = Scores(samples=samples, unstable=sum(e["unstable"] for e in clean), classes=clean[0]["classes"])
    scores.shares = None if job.drawn is None else Shares.of(clean)
    standing = correct.copy()
    broken_by, scores.fell_at = (np.full(len(correct), None, dtype=object) for _ in range(2))
    predictions = np.full(len(correct), -1, dtype=np.int64)
    if job.carried is not None:
        name, fallen = job.carried.name, correct & job.carried.fallen
        standing, correct = correct & ~fallen, correct & ~fallen
        samples[name], samples[f"{name}_steps"], samples[f"{name}_margin"] = standing, 0, np.nan
        broken_by[fallen] = name
        if job.carried.predictions is not None:
            predictions[fallen] = job.carried.predictions[fallen]
        broke = int(fallen.sum())
        scores.stages[name] = (StageScore(name=name, attacked=broke, broken=broke),)
    parts = [attack.parts(job.model) for attack in job.attacks]
    told = SuiteProgress(
        job.progress, job.label, parts, cascade=job.cascade, correct=int(correct.sum()), forecast=job.forecast
    )
    bench = _Bench(job=job, journal=journal, told=told, logits=logits)
    scores.look = look(job, journal, correct) if job.one_in else None
    unpaid, idle = 0 if scores.look is None else scores.look.passes, []
    nearest = np.full(len(correct), np.nan, dtype=np.float32)
    for number, attack in enumerate(job.attacks):
        # An image that is wrong clean, or that fell to an earlier attack of a cascade, is not robust to this one.
        robust = (standing if job.cascade else correct).copy()
        own = scores.shares if job.cascade or scores.shares is None else Shares.of(clean)
        steps, margin = np.zeros(len(robust), dtype=np.int32), np.full(len(robust), np.nan, dtype=np.float32)
        run = _Run(
            attack=attack,
            stages=parts[number],
            number=number,
            robust=robust,
            steps=steps,
            margin=margin,
            before=standing.copy(),
            predictions=predictions,
            fell_at=scores.fell_at,
            shares=own,
        )
        ran = _triaged(bench, run, nearest, scores.look)
        if attack.name in job.one_in:
            ran, unpaid = (replace(ran[0], passes=ran[0].passes + unpaid), *ran[1:]), 0
        scores.stages[attack.name] = ran
        if ran[0].attacked:
            told.attack_ended(
                attack.name,
                met=ran[0].attacked,
                broken=sum(stage.broken for stage in ran),
                stages=len(ran),
                passes=sum(stage.passes for stage in ran),
                seconds=sum(stage.seconds for stage in ran),
            )
        else:
            idle.append(attack.name)
        if own is not None and scores.shares is not None:
            scores.expected[attack.name] = own.reported.copy()
            scores.shares.take(own)
        covered = attack.covers(job.images.ids).numpy()
        np.fmax(nearest, margin, out=nearest)
        samples[attack.name] = robust if covered.all() else pd.arrays.BooleanArray(robust, mask=~covered)
        samples[f"{attack.name}_steps"] = steps
        samples[f"{attack.name}_margin"] = margin
        fallen = standing & covered & ~robust
        broken_by[fallen] = attack.name
        standing &= ~fallen
    told.close(standing=int(standing.sum()), idle=idle)
    samples["broken_by"] = broken_by
    if scores.shares is not None:
        samples[EXPECTED_CLEAN], samples[EXPECTED] = scores.shares.clean, scores.shares.reported
    samples[ADVERSARIAL_PREDICTION] = pd.arrays.IntegerArray(predictions, mask=predictions < 0)
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bench:
    """What all attacks of a job share; `logits` are the model's for clean images, by block, as far as it was asked."""

    job: Job
    journal: Journal
    told: SuiteProgress
    logits: dict[int, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """An attack of a job, the one of that `number`, and what it does to every image, written in place.

    `before` are the images that stood before it; of those that it breaks, `predictions` and `fell_at` are filled in.
    `shares` are those of a model that answers at random, on whose images it goes on for as long as a draw is right.
    """

    attack: Attack
    stages: Sequence[Attack]
    number: int
    robust: Bools
    steps: Array
    margin: Array
    before: Bools
    predictions: Array
    fell_at: Array
    shares: Shares | None

    @property
    def targets(self) -> Bools:
        """Images that are still to be attacked."""
        return self.robust if self.shares is None else self.shares.open


def _triaged(bench: _Bench, run: _Run, nearest: Array, seen: Look | None) -> tuple[StageScore, ...]:
    """Run an attack on the images that stand, or on the nearest of every block and on twice as many while some fall.

    Blocks are ranked apart, because each may be attacked by a process of its own; one whose margins were `seen` to tell
    nothing is met as a whole.
    """
    job = bench.job
    one_in = job.one_in.get(run.attack.name, 1)
    standing, scored = run.targets & run.attack.covers(job.images.ids).numpy(), dict[str, StageScore]()
    queues = [nearest_first(block, standing, nearest) for block in job.blocks]
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


def _stages(bench: _Bench, run: _Run, met: Bools, *, turn: int) -> Iterator[StageScore]:
    """Run the stages of an attack on the images `met`, and update its arrays.

    Where nothing is left to attack, nothing is run, and no further stage begins.
    """
    job, broke = bench.job, list[int]()
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
            rows = _Rows(targets=targets[block], robust=run.robust[block], fresh=run.before[block])
            entries.append(_attack_block(bench, stage, name, index, rows, standing=left))
            left -= sum(entries[-1]["broken"])
        broken = _column(entries, "broken").astype(bool)
        if run.shares is not None:
            run.shares.lower(entries)
        np.add(run.steps, _column(entries, "steps").astype(np.int32), out=run.steps)
        np.fmax(run.margin, _column(entries, "margin").astype(np.float32), out=run.margin)
        np.logical_and(run.robust, ~broken, out=run.robust)
        predicted = np.concatenate([e.get("predicted", [-1] * len(e["broken"])) for e in entries]).astype(np.int64)
        fell = broken & run.before
        run.predictions[fell], run.fell_at[fell] = predicted[fell], stage.name
        broke.append(int(broken.sum()))
        yield StageScore(
            name=stage.name,
            attacked=int(targets.sum()),
            broken=broke[-1],
            **{key: sum(e[key] for e in entries) for key in ("seconds", "passes", "zero_gradients")},
        )
        if isinstance(run.attack, Chain) and run.attack.is_over(broke):
            return


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Of the images of a block: which are `targets` of a stage, `robust` so far, and `fresh`, broken by no attack yet.

    Targets are robust, but for a model that answers at random.
    """

    targets: Bools
    robust: Bools
    fresh: Bools


def _column(entries: Sequence[Entry], name: str) -> Array:
    return np.concatenate([np.asarray(e[name]) for e in entries])


def _clean_block(job: Job, journal: Journal, index: int, block: slice, known_logits: dict[int, Tensor]) -> Entry:
    """Predictions on clean images, made twice: where they differ, the record warns.

    The logits go into `known_logits`, unless the journal has the block.
    """
    n = block.stop - block.start
    shares = {} if job.drawn is None else dict.fromkeys(SHARES, (float, n))
    form = partial(has, counts=("unstable", "classes"), numbers=("seconds",), lists={"prediction": (int, n), **shares})
    if (known := journal.get("clean", index, form)) is not None:
        return known
    start = time.perf_counter()
    x, y, _ = job.load(block)
    with calling.frozen(job.model):
        worker = engine.Worker(job.model, job.budget.batch_size)
        known_logits[index] = logits = worker.logits(x, y)
        first = logits.argmax(dim=1)
        if job.drawn is None:
            values: Entry = {"unstable": int((first != worker.logits(x, y).argmax(dim=1)).sum())}
        else:
            values = {"unstable": 0, **job.drawn.clean(logits, x, y, job.budget.batch_size)}
    values |= {
        "prediction": first.tolist(),
        "classes": logits.shape[1],
        "seconds": time.perf_counter() - start,
    }
    job.progress(f"{job.label} clean", block.stop, len(job.images), accuracy=(first == y).double().mean().item())
    return journal.put("clean", index, values)


def _logits(job: Job, x: Tensor, y: Tensor) -> Tensor:
    """Logits (batch, class) that decide."""
    with calling.frozen(job.model):
        return engine.Worker(job.model, job.budget.batch_size).logits(x, y)


def _attack_block(bench: _Bench, attack: Attack, name: str, index: int, about: _Rows, *, standing: int) -> Entry:
    """One attack on the images of a block that are its targets; `standing` images have withstood it so far.

    The journal has it under `name`. Fresh images are looked at again once they fall: what are they taken for?
    """
    job, told, logits, count = bench.job, bench.told, bench.logits, int(about.targets.sum())
    if (known := bench.journal.get(name, index, partial(_is_attack, job=job, about=about))) is not None:
        told.end(count, known["passes"], standing=standing - sum(known["broken"]), shown=False)
        return known
    start = time.perf_counter()
    x, y, ids = job.load(job.blocks[index])
    rows = torch.from_numpy(np.flatnonzero(about.targets))

    def on_done(done: int, broken: int) -> None:
        told.at(count, done=done, broken=broken, standing=standing - broken)

    if count:
        told.begin(count, standing=standing)
    if count and index not in logits:
        logits[index] = _logits(job, x, y)
    # A model that answers at random is asked again.
    known_logits = logits[index] if count and job.drawn is None else None
    outcome = attempt(job, attack, x, y, ids, rows, on_done, clean_logits=known_logits)
    labels = y[rows.to(y.device)]
    shares: Mapping[str, Tensor] = {}
    if job.drawn is not None:
        shares = job.drawn.shares_at(job.model, outcome, labels, job.budget)
        broken = outcome.broken & torch.from_numpy(about.robust)[rows].to(y.device)
        outcome = replace(outcome, broken=broken, passes=outcome.passes + job.drawn.passes * count)
    seconds = time.perf_counter() - start
    predicted, fell = _fallen(job, outcome, labels, torch.from_numpy(about.fresh)[rows])

    def spread(values: Tensor, fill: float) -> list[Any]:
        full = torch.full((len(y),), fill, dtype=values.dtype)
        full[rows] = values.cpu()
        return full.tolist()

    entry = bench.journal.put(
        name,
        index,
        {
            "broken": spread(outcome.broken, False),
            "steps": spread(outcome.steps, 0),
            "margin": spread(outcome.margin.float(), float("nan")),
            "zero_gradients": outcome.zero_gradients,
            "passes": outcome.passes,
            "seconds": seconds,
            "predicted": spread(predicted, -1),
            **{share: spread(values, float("nan")) for share, values in shares.items()},
        },
        outcome.x_adv[fell].float().cpu().numpy() if bench.journal.keeps_images else None,
    )
    told.end(count, outcome.passes, standing=standing - int(outcome.broken.sum()), shown=True)
    return entry


def _is_attack(entry: Entry, *, job: Job, about: _Rows) -> bool:
    """Whether an entry tells what an attack did to the images of a block."""
    n = len(about.targets)
    lists: dict[str, tuple[type, int]] = {"broken": (bool, n), "steps": (int, n), "margin": (float, n)}
    if "predicted" in entry:  # versions before did not ask
        lists["predicted"] = int, n
    if job.drawn is not None:
        lists |= dict.fromkeys(SHARES, (float, n))
    if not has(entry, counts=("passes", "zero_gradients"), numbers=("seconds",), lists=lists):
        return False
    broken = np.array(entry["broken"], dtype=bool)
    named = np.array(entry["predicted"]) >= 0 if "predicted" in entry else broken & about.fresh
    return not (broken & ~about.targets).any() and np.array_equal(named, broken & about.fresh)


def _fallen(job: Job, outcome: engine.Outcome, y: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """What the model takes the `fresh` images that were broken for, -1 for all others, and the mask of these images.

    The model is asked again, which no attack's passes count; the right class is no answer of a broken image.
    """
    predicted = torch.full_like(y, -1)
    fell = outcome.broken & fresh.to(y.device)
    if fell.any():
        logits = _logits(job, outcome.x_adv[fell], y[fell])
        predicted[fell] = losses.wrong_logits(logits, y[fell]).argmax(dim=1)
    return predicted, fell
