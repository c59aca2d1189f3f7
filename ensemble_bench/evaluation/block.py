"""A block of images: clean, and under one attack. What the journal holds is not run again."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemble_bench import losses
from ensemble_bench.attacks import Attack, engine
from ensemble_bench.evaluation.draws import SHARES
from ensemble_bench.evaluation.job import Array, Bools, Job, attempt
from ensemble_bench.evaluation.journal import Entry, Journal, has
from ensemble_bench.evaluation.suite_progress import SuiteProgress
from ensemble_bench.models import calling


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What all attacks of a job share; `logits` are the model's for clean images, by block, as far as it was asked."""

    job: Job
    journal: Journal
    told: SuiteProgress
    logits: dict[int, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Of the images of a block: which are `targets` of a stage, `robust` so far, and `fresh`, broken by no attack yet.

    Targets are robust, but for a model that answers at random.
    """

    targets: Bools
    robust: Bools
    fresh: Bools


def column(entries: Sequence[Entry], name: str) -> Array:
    """What the entries of all blocks say of every image."""
    return np.concatenate([np.asarray(e[name]) for e in entries])


def clean_block(job: Job, journal: Journal, index: int, block: slice, known_logits: dict[int, Tensor]) -> Entry:
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


def attack_block(bench: Bench, attack: Attack, name: str, index: int, about: Rows, *, standing: int) -> Entry:
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


def _is_attack(entry: Entry, *, job: Job, about: Rows) -> bool:
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
