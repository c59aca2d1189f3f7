"""Triage: which of the images that stand an attack meets first, and whether margins tell that at all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble_bench import attacks
from ensemble_bench.evaluation.job import Bools, Job, attempt
from ensemble_bench.evaluation.journal import Journal, has
from ensemble_bench.threat import ThreatModel

# At this distance from every image lies grey, so that no two classes are further apart than an attack may go.
GREY = 0.5
IMAGES = 128
"""Of a block of images so many are looked at: enough to tell 2 % from none."""
SHARE = 0.01
"""A share of the images below this is taken for chance."""
ATTACK = "margin20"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Of the images that were `met` at an eps that reaches grey, how many stand, block by block; and the passes."""

    eps: float
    met: Sequence[int]
    standing: Sequence[int]
    passes: int

    def tells(self, block: int) -> bool:
        """Whether margins say how near an image is: where the gradient leads nowhere, they say nothing."""
        return self.standing[block] <= SHARE * self.met[block]


def look(job: Job, journal: Journal, correct: Bools) -> Look:
    """Attack the first `correct` images of every block within reach of grey; blocks in the journal are not run again.

    Blocks are looked at apart, because each may be attacked by a process of its own.
    """
    entries = []
    for index, block in enumerate(job.blocks):
        entry = journal.get("look", index, partial(has, counts=("met", "standing", "passes")))
        if entry is None:
            rows = torch.from_numpy(np.flatnonzero(correct[block])[:IMAGES])
            attack = replace(attacks.get(ATTACK), name=f"look/{ATTACK}")
            outcome = attempt(replace(job, threat=reach_of_grey(job)), attack, *job.load(block), rows, lambda *_: None)
            found = {"met": len(rows), "standing": int((~outcome.broken).sum()), "passes": outcome.passes}
            entry = journal.put("look", index, found)
        entries.append(entry)
    met, standing = ([entry[name] for entry in entries] for name in ("met", "standing"))
    return Look(
        eps=reach_of_grey(job).eps, met=met, standing=standing, passes=sum(entry["passes"] for entry in entries)
    )


def reach_of_grey(job: Job) -> ThreatModel:
    """The threat model of the least eps, and no less than the job's, within which every image reaches grey."""
    pixels = job.images.images[0].numel()
    grey = GREY if job.threat.norm == "linf" else GREY * pixels**0.5
    return replace(job.threat, eps=max(grey, job.threat.eps))


def nearest_first(block: slice, standing: NDArray[np.bool_], margin: NDArray[Any]) -> NDArray[Any]:
    """The images of a block that are `standing`, those of the largest margin first, and of equal ones the first."""
    rows = block.start + np.flatnonzero(standing[block])
    # Not a number: no attack met the image.
    order = np.argsort(-np.nan_to_num(margin[rows], nan=-np.inf), kind="stable")
    ranked: NDArray[Any] = rows[order]
    return ranked
