"""Capture and recapture: how many of the images that a cascade left standing its attacks may still break.

Every attack, each alone, met the same random sample of images. Those that a single attack broke tell of those that all
of them miss, as in ecology animals that few traps caught tell of those that none did.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.records.statistics import wilson

NORMAL = 1.959963984540054  # of a two-sided 95 % interval


def hidden_images(caught: NDArray[np.bool_], survives: NDArray[np.bool_], standing: int) -> tuple[float, float, float]:
    """How many of the `standing` images are breakable, as (estimate, low, high) of a 95 % interval.

    `caught` (attack x image) says which attack broke which image of the sample, and `survives` (image) which of these
    the cascade left standing. Of the sampled survivors those count that fell, and Chao's lower bound of the images that
    no attack caught (Chao, Biometrics 1987, bias-corrected, with its log-normal interval), less those that the cascade
    broke and no attack did again. The interval joins Wilson's for the sample: it is wider than 95 % ask for.
    """
    sampled = int(survives.sum())
    if sampled == 0 or standing == 0:
        return 0.0, 0.0, 0.0
    times = caught.sum(axis=0)
    fell, lost = int((survives & (times > 0)).sum()), int((~survives & (times == 0)).sum())
    unseen, most = _unseen(len(caught), int((times == 1).sum()), int((times == 2).sum()))
    likely, worst = (min(fell + max(found - lost, 0.0), sampled) for found in (unseen, most))
    low, _ = wilson(fell, sampled)
    _, high = wilson(math.ceil(worst), sampled)
    return standing * likely / sampled, standing * low, standing * high


def _unseen(attacks: int, once: int, twice: int) -> tuple[float, float]:
    """Chao's bound of the images that no attack caught, of how many one and two attacks did; and its upper end."""
    share = (attacks - 1) / attacks
    found = share * once * (once - 1) / (2 * (twice + 1))
    if found == 0:
        return 0.0, 0.0
    variance = (
        found
        + share**2 * once * (2 * once - 1) ** 2 / (4 * (twice + 1) ** 2)
        + share**2 * once**2 * twice * (once - 1) ** 2 / (4 * (twice + 1) ** 4)
    )
    return found, found * math.exp(NORMAL * math.sqrt(math.log1p(variance / found**2)))
