"""Scoring: run a suite over images block by block, and gather a row an image."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble_bench.attacks import Attack, engine
from ensemble_bench.attacks.engine import Budget, Chain
from ensemble_bench.data import ImageSet
from ensemble_bench.errors import AttackError, EnsembleBenchError
from ensemble_bench.evaluation.journal import Entry, Journal
from ensemble_bench.models import calling
from ensemble_bench.models.folded import Twin
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import CARRIED
from ensemble_bench.threat import ThreatModel

# Blocks bound memory and the work a kill can cost; fixed, so that a resumed evaluation repeats the same batches.
BLOCK = 1024

Array = NDArray[Any]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Carried:
    """Images (mask `fallen`) that fell at a smaller `eps` according to `record`: they fall here without an attack."""

    eps: float
    record: str
    fallen: Bools
    name: str = CARRIED

    def settings(self) -> dict[str, Any]:
        """Its entry in a record, among the attacks."""
        return {"name": self.name, "eps": self.eps, "record": self.record}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation to do: the model on its device, the images, and the attacks to score it with."""

    label: str
    model: nn.Module
    images: ImageSet
    threat: ThreatModel
    attacks: Sequence[Attack]
    cascade: bool
    carried: Carried | None = None
    budget: Budget
    twin: Twin | None = None
    """What proposes instead of the model."""
    progress: Progress = silent

    @property
    def blocks(self) -> list[slice]:
        """The images in blocks, in order."""
        return [slice(a, min(a + BLOCK, len(self.images))) for a in range(0, len(self.images), BLOCK)]

    def load(self, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and ids of a block, on the device (ids on the CPU)."""
        x, y = self.images.batch(block)
        return x.to(self.budget.device), y.to(self.budget.device), self.images.ids[block]


@dataclass(frozen=True, kw_only=True)
class StageScore:
    """The score of one stage of an attack: of `attacked` images, the survivors of the stages before, `broken` fell."""

    name: str
    attacked: int
    broken: int
    seconds: float = 0.0
    passes: int = 0
    zero_gradients: int = 0


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


def score(job: Job, journal: Journal) -> Scores:
    """Run every attack of `job`; blocks of images that the journal holds are not run again.

    Raises AttackError, naming the attack, for one that breaks the rules or fails; finished blocks stay in the journal.
    """
    clean = [_clean_block(job, journal, i, block) for i, block in enumerate(job.blocks)]
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
    standing = correct.copy()
    broken_by = np.full(len(correct), None, dtype=object)
    if job.carried is not None:
        name, fallen = job.carried.name, correct & job.carried.fallen
        standing, correct = correct & ~fallen, correct & ~fallen
        samples[name], samples[f"{name}_steps"], samples[f"{name}_margin"] = standing, 0, np.nan
        broken_by[fallen] = name
        broke = int(fallen.sum())
        scores.stages[name] = (StageScore(name=name, attacked=broke, broken=broke),)
    for attack in job.attacks:
        # An image that is wrong clean, or that fell to an earlier attack of a cascade, is not robust to this one.
        robust = (standing if job.cascade else correct).copy()
        steps, margin = np.zeros(len(robust), dtype=np.int32), np.full(len(robust), np.nan, dtype=np.float32)
        scores.stages[attack.name] = tuple(_stages(job, journal, attack, robust, steps, margin))
        covered = attack.covers(job.images.ids).numpy()
        samples[attack.name] = robust if covered.all() else pd.arrays.BooleanArray(robust, mask=~covered)
        samples[f"{attack.name}_steps"] = steps
        samples[f"{attack.name}_margin"] = margin
        fallen = standing & covered & ~robust
        broken_by[fallen] = attack.name
        standing &= ~fallen
    samples["broken_by"] = broken_by
    return scores


def _stages(
    job: Job, journal: Journal, attack: Attack, robust: Bools, steps: Array, margin: Array
) -> Iterator[StageScore]:
    """Run the stages of an attack on the `robust` images, and update `robust`, `steps` and `margin` in place."""
    broke: list[int] = []
    for stage in attack.parts(job.model):
        entries: list[Entry] = []
        targets = robust & stage.covers(job.images.ids).numpy()
        left = int(targets.sum())
        for index, block in enumerate(job.blocks):
            entries.append(_attack_block(job, journal, stage, index, block, targets[block], standing=left))
            left -= sum(entries[-1]["broken"])
        broken = _column(entries, "broken").astype(bool)
        steps += _column(entries, "steps").astype(np.int32)
        np.fmax(margin, _column(entries, "margin").astype(np.float32), out=margin)
        robust &= ~broken
        broke.append(int(broken.sum()))
        yield StageScore(
            name=stage.name,
            attacked=int(targets.sum()),
            broken=broke[-1],
            **{key: sum(e[key] for e in entries) for key in ("seconds", "passes", "zero_gradients")},
        )
        if isinstance(attack, Chain) and attack.is_over(broke):
            return


def _column(entries: Sequence[Entry], name: str) -> Array:
    return np.concatenate([np.asarray(e[name]) for e in entries])


def _clean_block(job: Job, journal: Journal, index: int, block: slice) -> Entry:
    """Predictions on clean images, made twice: where they differ, the record warns."""
    if (known := journal.get("clean", index)) is not None:
        return known
    start = time.perf_counter()
    x, y, _ = job.load(block)
    with calling.frozen(job.model):
        worker = engine.Worker(job.model, job.budget.batch_size)
        logits = worker.logits(x, y)
        first, again = logits.argmax(dim=1), worker.logits(x, y).argmax(dim=1)
    values = {
        "prediction": first.tolist(),
        "unstable": int((first != again).sum()),
        "classes": logits.shape[1],
        "seconds": time.perf_counter() - start,
    }
    job.progress(f"{job.label} clean", block.stop, len(job.images), accuracy=(first == y).double().mean().item())
    return journal.put("clean", index, values)


def _attack_block(
    job: Job, journal: Journal, attack: Attack, index: int, block: slice, targets: Bools, *, standing: int
) -> Entry:
    """One attack on the images of a block that are its targets; `standing` images have withstood it so far."""
    if (known := journal.get(attack.name, index)) is not None:
        return known
    start = time.perf_counter()
    x, y, ids = job.load(block)
    rows = torch.from_numpy(np.flatnonzero(targets))
    missed = len(y) - len(rows)
    label = f"{job.label} {attack.name}"

    def on_done(done: int, broken: int) -> None:
        at = block.start + min(missed + done, len(y) - 1)
        job.progress(label, at, len(job.images), standing=standing - broken)

    job.progress(label, block.start, len(job.images), standing=standing)
    outcome = attempt(job, attack, x, y, ids, rows, on_done)

    def spread(values: Tensor, fill: float) -> list[Any]:
        full = torch.full((len(y),), fill, dtype=values.dtype)
        full[rows] = values.cpu()
        return full.tolist()

    entry = journal.put(
        attack.name,
        index,
        {
            "broken": spread(outcome.broken, False),
            "steps": spread(outcome.steps, 0),
            "margin": spread(outcome.margin.float(), float("nan")),
            "zero_gradients": outcome.zero_gradients,
            "passes": outcome.passes,
            "seconds": time.perf_counter() - start,
        },
    )
    broken = int(outcome.broken.sum())
    job.progress(label, block.stop, len(job.images), broken=broken, standing=standing - broken)
    return entry


def attempt(
    job: Job, attack: Attack, x: Tensor, y: Tensor, ids: Tensor, rows: Tensor, on_done: engine.OnDone
) -> engine.Outcome:
    """Run the attack on some rows of a block; any error in it becomes an AttackError that names the attack."""
    at = rows.to(job.budget.device)
    if len(rows) == 0:  # not every model takes an empty batch
        return engine.Outcome(x_adv=x[at], broken=y[at].bool(), steps=y[at], margin=x.new_zeros(0))
    try:
        task = engine.Task(
            model=job.model,
            x=x[at],
            y=y[at],
            threat=job.threat,
            ids=ids[rows],
            budget=job.budget,
            on_done=on_done,
            twin=None if job.twin is None else job.twin.model,
        )
        return attack.search(task)
    except EnsembleBenchError as error:
        if attack.name in str(error):
            raise
        raise AttackError(f"{attack.name}: {error}") from error
    except Exception as error:
        raise AttackError(f"{attack.name} failed: {type(error).__name__}: {error}") from error
