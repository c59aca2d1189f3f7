"""Comparisons of attacks that start at random, at a stated false-alarm rate and of a computed power.

Two attacks run on the same images. Where both leave an image standing, or neither does, it says nothing. If they are
equally strong, that is if each image falls to one as often as to the other, an image that only one leaves standing is
a fair coin; so the number that only the first one leaves standing is binomial, whatever the images are (McNemar).
"""

import torch
from scipy.stats import beta, binom
from torch import Tensor

FALSE_ALARM = 1e-6
"""Largest probability that a test fails though the attacks that it compares are equally strong."""
CONFIDENCE = 0.999
"""With which `power` holds."""


def tolerance(n: int, *, comparisons: int = 1) -> int:
    """Most of `n` fair coins that may fall on one side; more come up at most `FALSE_ALARM` of the time.

    A test that makes several comparisons shares that rate among them. Below 20 coins nothing is too many.
    """
    return int(binom.isf(FALSE_ALARM / comparisons, n, 0.5))


def discordant(first: Tensor, second: Tensor) -> tuple[int, int]:
    """Images that only the first attack leaves standing, and those that one of the two does; masks of any one shape."""
    assert first.shape == second.shape
    assert first.dtype == second.dtype == torch.bool
    return int((first & ~second).sum()), int((first ^ second).sum())


def weaker(first: Tensor, second: Tensor, *, comparisons: int = 1) -> bool:
    """Whether the first attack leaves more images standing than the second, beyond chance."""
    alone, n = discordant(first, second)
    return alone > tolerance(n, comparisons=comparisons)


def power(first: Tensor, second: Tensor, *, comparisons: int = 1) -> float:
    """Least probability, with `CONFIDENCE`, that `weaker` finds the first attack weaker on other images like these.

    The coin's bias is only known from these images: it is taken at its lower Clopper-Pearson limit.
    """
    alone, n = discordant(first, second)
    low = beta.ppf(1 - CONFIDENCE, alone, n - alone + 1) if alone else 0.0
    return float(binom.sf(tolerance(n, comparisons=comparisons), n, low))
