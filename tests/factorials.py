"""Simulated factorials: for every recipe of the claims some models that differ by their seed, on the same images.

A model is right on an image if difficulty + taste + noise stays below its threshold, all normal. The difficulty is the
image's, the same for all models. The taste is what all models of a recipe make of the image, the noise what one model
makes of it. Shares are such that two seeds of a recipe disagree on a tenth of the images, and models of two recipes on
an eighth, as published models do (leaderboards/: 5 to 12 %). A seed moves its model's threshold.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ensemble_bench.reports.claims import CLAIMS, Claim
from ensemble_bench.reports.verdicts import Judgement, judge

RECIPES = tuple(dict.fromkeys(recipe for claim in CLAIMS.values() for recipe in claim.recipes))
DIFFICULTY, TASTE, NOISE = 0.92, 0.03, 0.05  # shares of the variance
ACCURACY = 0.45
# Accuracy gained by moving the threshold of a model by one standard deviation of the images, at this accuracy.
SLOPE = float(np.exp(-(ndtri(ACCURACY) ** 2) / 2) / np.sqrt(2 * np.pi))
MARGINS = {claim.right[0]: -claim.margin for claim in CLAIMS.values() if claim.direction == "not more"}
"""Where recipes must stand, beside all others, so that no claim is true: those with a margin are at that margin."""

Factorial = Mapping[str, NDArray[np.bool_]]


def simulate(
    generator: np.random.Generator,
    *,
    n: int,
    seed_sd: float | Mapping[str, float],
    seeds: int = 3,
    gains: Mapping[str, float] = MARGINS,
) -> Factorial:
    """Per recipe, an array (seed, image): whether the model is right.

    `seed_sd` is the standard deviation of accuracy between seeds and `gains` how far recipes stand above the others,
    both as fractions of the images.
    """
    # float32 halves the time of the normals; thresholds need no more
    difficulty = np.sqrt(DIFFICULTY) * generator.standard_normal(n, dtype=np.float32)
    found = {}
    for recipe in RECIPES:
        sd = seed_sd if isinstance(seed_sd, float) else seed_sd[recipe]
        shifts = (gains.get(recipe, 0.0) + sd * generator.standard_normal(seeds)) / SLOPE
        taste = difficulty + np.float32(np.sqrt(TASTE)) * generator.standard_normal(n, dtype=np.float32)
        noise = np.float32(np.sqrt(NOISE)) * generator.standard_normal((seeds, n), dtype=np.float32)
        found[recipe] = taste + noise < (ndtri(ACCURACY) + shifts[:, None]).astype(np.float32)
    return found


def judged(factorial: Factorial) -> list[Judgement]:
    """All claims, judged as one family."""
    return judge([(claim, *arrays(claim, factorial)) for claim in CLAIMS.values()], list(factorial.values()))


def arrays(claim: Claim, factorial: Factorial) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """The two sides of a claim."""
    return [factorial[name] for name in claim.left], [factorial[name] for name in claim.right]
