"""Scoring: run a suite over images block by block, and gather a row an image."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ensemble_bench.attacks import Attack, engine
from ensemble_bench.data import ImageSet
from ensemble_bench.evaluation.journal import Entry, Journal
from ensemble_bench.progress import Progress, silent
from ensemble_bench.threat import ThreatModel

# Blocks bound memory and the work a kill can cost; fixed, so that a resumed evaluation repeats the same batches.
BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation to do: the model on its device, the images, and the attacks to score it with."""

    label: str
    model: nn.Module
    images: ImageSet
    threat: ThreatModel
    attacks: Sequence[Attack]
    cascade: bool
    seed: int
    batch_size: int
    precision: str
    device: torch.device
    progress: Progress = silent

    @property
    def blocks(self) -> list[slice]:
        """The images in blocks, in order."""
        return [slice(a, min(a + BLOCK, len(self.images))) for a in range(0, len(self.images), BLOCK)]

    def load(self, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and ids of a block, on the device (ids on the CPU)."""
        x, y = self.images.batch(block)
        return x.to(self.device), y.to(self.device), self.images.ids[block]


@dataclass(kw_only=True)
class Scores:
    """What scoring found: a row an image, and per attack what does not belong to a row."""

    samples: pd.DataFrame
    seconds: dict[str, float] = field(default_factory=dict)
    zero_gradients: dict[str, int] = field(default_factory=dict)
    unstable: int = 0
    """Images whose clean prediction changed when the model was asked again."""


def score(job: Job, journal: Journal) -> Scores:
    """Run every attack of `job`; what the journal holds already is not run again."""
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
    scores = Scores(samples=samples, unstable=sum(e["unstable"] for e in clean))
    scores.seconds["clean"] = sum(e["seconds"] for e in clean)
    standing = correct.copy()
    broken_by = np.full(len(correct), None, dtype=object)
    for attack in job.attacks:
        targets = standing if job.cascade else correct
        entries = [_attack_block(job, journal, attack, i, b, targets[b]) for i, b in enumerate(job.blocks)]
        covered = attack.covers(job.images.ids).numpy()
        # An image that is wrong clean, or that fell to an earlier attack of a cascade, is not robust to this one.
        robust = targets & ~_column(entries, "broken").astype(bool)
        samples[attack.name] = robust if covered.all() else pd.arrays.BooleanArray(robust, mask=~covered)
        samples[f"{attack.name}_steps"] = _column(entries, "steps").astype(np.int32)
        samples[f"{attack.name}_margin"] = _column(entries, "margin").astype(np.float32)
        fallen = standing & covered & ~robust
        broken_by[fallen] = attack.name
        standing &= ~fallen
        scores.seconds[attack.name] = sum(e["seconds"] for e in entries)
        scores.zero_gradients[attack.name] = sum(e["zero_gradients"] for e in entries)
    samples["broken_by"] = broken_by
    return scores


def _column(entries: Sequence[Entry], name: str) -> np.ndarray[Any, np.dtype[Any]]:
    return np.concatenate([np.asarray(e[name]) for e in entries])


def _clean_block(job: Job, journal: Journal, index: int, block: slice) -> Entry:
    """Predictions on clean images, asked twice: a model that changes its mind cannot be scored like others."""
    if (known := journal.get("clean", index)) is not None:
        return known
    start = time.perf_counter()
    x, y, _ = job.load(block)
    with engine.frozen(job.model):
        worker = engine.Worker(job.model, job.batch_size)
        first, again = worker.predict(x, y), worker.predict(x, y)
    values = {
        "prediction": first.tolist(),
        "unstable": int((first != again).sum()),
        "seconds": time.perf_counter() - start,
    }
    job.progress(f"{job.label} clean", block.stop, len(job.images), accuracy=(first == y).double().mean().item())
    return journal.put("clean", index, values)


def _attack_block(
    job: Job, journal: Journal, attack: Attack, index: int, block: slice, targets: np.ndarray[Any, np.dtype[Any]]
) -> Entry:
    """One attack on the images of a block that are its targets and that it covers."""
    if (known := journal.get(attack.name, index)) is not None:
        return known
    start = time.perf_counter()
    x, y, ids = job.load(block)
    rows = torch.from_numpy(np.flatnonzero(targets & attack.covers(ids).numpy()))
    at = rows.to(job.device)
    missed = len(y) - len(rows)
    label = f"{job.label} {attack.name}"
    outcome = attack.run(
        job.model,
        x[at],
        y[at],
        job.threat,
        seed=job.seed,
        ids=ids[rows],
        batch_size=job.batch_size,
        precision=job.precision,
        on_done=lambda done: job.progress(label, block.start + min(missed + done, len(y) - 1), len(job.images)),
    )

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
    job.progress(label, block.stop, len(job.images), broken=int(outcome.broken.sum()))
    return entry
