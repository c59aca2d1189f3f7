"""Capture and recapture: the estimate by hand, and over simulated samples of attacks that miss alike."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble_bench.records.hidden_images import hidden_images
from ensemble_bench.records.statistics import wilson


def test_by_hand() -> None:
    # Three attacks on ten images: four caught once, one twice, none by all; the first two of the ten stand, one of
    # these was caught. Chao: 2/3 of 4 · 3 / (2 · 2) = 2 unseen; of those that fell before, one was never caught again.
    caught = np.zeros((3, 10), dtype=bool)
    caught[0, [0, 2, 3, 4]] = caught[1, [5, 6, 7, 8]] = True
    caught[:, [6, 7, 8]] = True
    caught[2, 5] = True
    survives = np.arange(10) < 2
    estimate, low, high = hidden_images(caught, survives, standing=50)
    assert estimate == pytest.approx(50 * (1 + (2 - 1)) / 2)
    assert low == pytest.approx(50 * wilson(1, 2)[0])
    assert high == 50.0


def caught_by(attacks: int, once: int, twice: int, *, images: int) -> NDArray[np.bool_]:
    """Of `images` the first are caught by one attack or two, the others by none."""
    caught = np.zeros((attacks, images), dtype=bool)
    caught[0, : once + twice] = True
    caught[1, once : once + twice] = True
    return caught


@pytest.mark.parametrize(
    ("attacks", "once", "twice", "unseen", "upper"),
    [
        # ½ · 4 · 3 / 4, its variance 1.5 + ¼ · 4 · 7² / 16 + ¼ · 16 · 3² / 64 = 5.125: 1.5 · exp(1.96 √ln(1 + 2.2778))
        (2, 4, 1, 1.5, 12.692),
        # ⅔ · 6 · 5 / 6, its variance 3.333 + 8.963 + 2.469
        (3, 6, 2, 10 / 3, 20.208),
        # ¾ · 5 · 4 / 2, its variance 7.5 + 56.953
        (4, 5, 0, 7.5, 41.576),
        # ⅘ · 9 · 8 / 10, its variance 5.76 + 16.646 + 5.308
        (5, 9, 4, 5.76, 26.529),
        # One image that one attack caught says of none that it may have been missed.
        (3, 1, 3, 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("lost", [0, 1, 40])
def test_chaos_bound_by_hand(attacks: int, once: int, twice: int, unseen: float, upper: float, lost: int) -> None:
    """Of 200 sampled survivors some fell; of those that fell in the cascade `lost` were not caught again."""
    survivors = caught_by(attacks, once, twice, images=200)
    caught = np.concatenate([survivors, np.zeros((attacks, lost), dtype=bool)], axis=1)
    found = hidden_images(caught, np.arange(200 + lost) < 200, standing=1000)
    fell = once + twice
    likely, worst = fell + max(unseen - lost, 0), fell + max(upper - lost, 0)
    assert found == pytest.approx((5 * likely, 1000 * wilson(fell, 200)[0], 1000 * wilson(math.ceil(worst), 200)[1]))


def test_where_nothing_is_found_the_sample_bounds_what_may_be() -> None:
    caught = np.ones((4, 30), dtype=bool)
    survives = np.arange(30) < 10
    caught[:, :10] = False
    estimate, low, high = hidden_images(caught, survives, standing=100)
    assert (estimate, low) == (0.0, 0.0)
    assert high == pytest.approx(100 * wilson(0, 10)[1])


@pytest.mark.parametrize("standing", [0, 100])
def test_without_survivors_nothing_is_hidden(standing: int) -> None:
    assert hidden_images(np.ones((2, 5), dtype=bool), np.zeros(5, dtype=bool), standing) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_interval_holds_the_truth(spread: float) -> None:
    """Of 400 breakable images of 1,000 each of eight attacks breaks some; a cascade of the first two left the rest.

    With `spread` the images differ in how hard they are, and all attacks find the same ones hard. An interval that
    misses the truth in 5 of 100 samples fails here in 2 of 100 generators; one that misses it in 10 of 100, in 89. The
    estimate is a lower bound on average.
    """
    generator = np.random.default_rng(0)
    missed, estimates, truths = 0, [], []
    for _ in range(300):
        hardness = generator.normal(0.0, spread, size=400)
        chance = 1 / (1 + np.exp(-(hardness - 0.5)))
        broken = generator.random(400) < 1 - (1 - chance) ** 2
        truth, standing = int((~broken).sum()), 600 + int((~broken).sum())
        ids = np.concatenate([np.flatnonzero(broken), 400 + np.arange(600), np.flatnonzero(~broken)])
        fell, stand = ids[: broken.sum()], ids[broken.sum() :]
        chosen = [generator.choice(rows, math.ceil(len(rows) / 10), replace=False) for rows in (fell, stand)]
        rows = np.concatenate(chosen)
        chances = np.append(chance, np.zeros(600))[rows]
        caught = generator.random((8, len(rows))) < chances
        survives = np.arange(len(rows)) >= len(chosen[0])
        estimate, low, high = hidden_images(caught, survives, standing)
        missed += not low <= truth <= high
        estimates.append(estimate)
        truths.append(truth)
    assert missed < 24
    assert np.mean(estimates) <= np.mean(truths) + 3 * np.std(estimates) / math.sqrt(300)
