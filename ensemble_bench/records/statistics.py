"""How sure a number is: intervals for one accuracy, exact tests for two models on the same images, spread of seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two models on the same `n` images: how many only the first and only the second gets right, and the p-value."""

    only_a: int
    only_b: int
    n: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over `n` seeds and the sample standard deviation (n − 1 in the denominator; None for one seed)."""

    mean: float
    sd: float | None
    n: int


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, as fractions in [0, 1].

    `confidence` is in (0, 1). Raises InvalidValueError unless 0 ≤ successes ≤ n and n ≥ 1. (Wilson, JASA 1927.)
    """
    from scipy.stats import binomtest

    if n < 1 or not 0 <= successes <= n:
        raise InvalidValueError(f"successes of n: expected 0 to n and n ≥ 1, got {successes} of {n}")
    if not 0 < confidence < 1:
        raise InvalidValueError(f"confidence: expected between 0 and 1, got {confidence}")
    interval = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_around(accuracy: float, n: int) -> tuple[float, float]:
    """Return the interval of an accuracy on `n` images that need not be of whole ones, such as a mean over seeds.

    It is Wilson's of the nearest whole number, and holds the accuracy: as wide as if every image were right or wrong.
    """
    low, high = wilson(round(accuracy * n), n)
    return min(low, accuracy), max(high, accuracy)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> McNemar:
    """Test whether two models differ on the same images: exact, two-sided, on the images where only one is right.

    `a[i]` and `b[i]` say whether each model is right on image i. Raises InvalidValueError for different or no images.
    (McNemar, Psychometrika 1947.)
    """
    from scipy.stats import binomtest

    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise InvalidValueError(f"the two models need the same images, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a=only_a, only_b=only_b, n=int(a.size), p_value=p_value)


def mean_sd(values: Sequence[float]) -> Spread:
    """Return the mean of one value a seed, with its sample standard deviation; InvalidValueError for no value."""
    if not len(values):
        raise InvalidValueError("the mean over seeds needs at least one value, got none")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(mean=float(np.mean(values)), sd=sd, n=len(values))
