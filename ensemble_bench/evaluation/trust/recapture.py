"""Every attack of a cascade alone on a random sample: credit without order, and what may still stand hidden."""

import time
from collections.abc import Collection
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble_bench.attacks import Attack
from ensemble_bench.evaluation.job import Job, attempt
from ensemble_bench.evaluation.journal import Entry, Journal, has
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.models.answers import logits_in
from ensemble_bench.records import CARRIED
from ensemble_bench.records.hidden_images import hidden_images
from ensemble_bench.records.recapture import Alone, Recapture

# One in so many of the images that stand, and of those that fell; at most so many of each.
ONE_IN, MOST = 10, 100


class Whole(nn.Module):
    """A model without its members: an attack on them meets its output alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of the model."""
        return logits_in(self.model(x), x)


def recapture(job: Job, scores: Scores, journal: Journal, *, members: Collection[str]) -> Recapture | None:
    """Run every attack of `job`, which got these `scores`, alone on a sample of images; what the journal holds is kept.

    Attacks called as in `members` meet the whole model without its members too. None where attacks did not stand in a
    cascade, or the model answers at random. Raises as `score`.
    """
    if not job.cascade or not job.attacks or job.drawn is not None:
        return None
    rows, survives = _sample(job, scores)
    twin = None if job.twin is None else replace(job.twin, model=Whole(job.twin.model))
    whole = replace(job, model=Whole(job.model), twin=twin)
    tried = [(job, attack, attack.name) for attack in job.attacks]
    tried += [(whole, attack, f"{attack.name} whole") for attack in job.attacks if attack.name in members]
    entries: dict[str, Entry] = {}
    form = partial(has, counts=("passes",), numbers=("seconds",), lists={"fell": (bool, len(rows))})
    for done, (against, attack, name) in enumerate(tried):
        job.progress(f"{job.label} recapture", done, len(tried), attack=name)
        entries[name] = journal.get(f"recapture {name}", 0, form) or journal.put(
            f"recapture {name}", 0, _alone(against, attack, rows)
        )
    job.progress(f"{job.label} recapture", len(tried), len(tried))
    caught = np.array([entries[attack.name]["fell"] for attack in job.attacks], dtype=bool)
    standing = int((scores.samples["clean"] & scores.samples["broken_by"].isna()).sum())
    hidden, low, high = hidden_images(caught, survives, standing)
    return Recapture(
        survivors=int(survives.sum()),
        broken=int((~survives).sum()),
        fell=int(caught[:, survives].any(axis=0).sum()),
        alone=tuple(_summed(attack.name, entries) for attack in job.attacks),
        hidden=hidden,
        low=low,
        high=high,
        seconds=sum(entry["seconds"] for entry in entries.values()),
    )


def _sample(job: Job, scores: Scores) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Rows of a random sample of the images that an attack met, ascending, and which of them stand."""
    clean, broken_by = scores.samples["clean"].to_numpy(dtype=bool), scores.samples["broken_by"]
    stand = np.flatnonzero(clean & broken_by.isna())
    fell = np.flatnonzero(broken_by.notna() & (broken_by != CARRIED))
    one_in = max(ONE_IN, max(len(stand), len(fell)) / MOST)
    generator = np.random.default_rng((job.budget.seed, len(scores.samples)))
    chosen = [generator.choice(rows, int(np.ceil(len(rows) / one_in)), replace=False) for rows in (stand, fell)]
    rows = np.sort(np.concatenate(chosen))
    return rows, clean[rows] & broken_by.isna().to_numpy()[rows]


def _alone(job: Job, attack: Attack, rows: NDArray[np.intp]) -> Entry:
    """Which of the images `rows` an attack breaks that meets them first."""
    start = time.perf_counter()
    x, y = job.images.batch(torch.from_numpy(rows))
    ids = job.images.ids[torch.from_numpy(rows)]
    met = attack.covers(ids).nonzero()[:, 0]
    outcome = attempt(job, attack, x.to(job.budget.device), y.to(job.budget.device), ids, met, lambda *_: None)
    fell = torch.zeros(len(rows), dtype=torch.bool)
    fell[met] = outcome.broken.cpu()
    return {"fell": fell.tolist(), "passes": outcome.passes, "seconds": time.perf_counter() - start}


def _summed(name: str, entries: dict[str, Entry]) -> Alone:
    whole = entries.get(f"{name} whole")
    return Alone(
        name=name,
        broken=sum(entries[name]["fell"]),
        passes=entries[name]["passes"],
        whole=None if whole is None else sum(whole["fell"]),
    )
