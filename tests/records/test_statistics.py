"""Statistics against hand formulas and brute-force enumeration."""

import math
import subprocess
import sys
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.records.statistics import Spread, mcnemar, mean_sd, wilson, wilson_around

Bools = NDArray[np.bool_]


def wilson_by_hand(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Roots of |p − k/n| = z sqrt(p (1 − p) / n)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return centre - half, centre + half


@settings(deadline=None)  # scipy loads in the first call
@given(st.data())
def test_wilson_is_its_closed_form(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 10_000))
    k = data.draw(st.integers(0, n))
    confidence = data.draw(st.sampled_from([0.5, 0.9, 0.95, 0.99]))
    low, high = wilson(k, n, confidence)
    assert (low, high) == pytest.approx(wilson_by_hand(k, n, confidence), abs=1e-9)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1


quick = settings(max_examples=100)
shares = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@quick
@given(share=shares, confidence=st.floats(0.01, 0.999))
def test_wilson_of_the_others_is_its_mirror_image(share: tuple[int, int], confidence: float) -> None:
    k, n = share
    low, high = wilson(k, n, confidence)
    assert wilson(n - k, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@quick
@given(share=shares, data=st.data())
def test_wilson_rises_with_the_count_and_narrows_with_the_number(share: tuple[int, int], data: st.DataObject) -> None:
    k, n = share
    low, high = wilson(k, n)
    if k < n:
        more = wilson(k + 1, n)
        assert more[0] > low
        assert more[1] > high
    times = data.draw(st.integers(2, 50))
    often = wilson(times * k, times * n)
    assert often[1] - often[0] < high - low
    surer = wilson(k, n, data.draw(st.floats(0.951, 0.9999)))
    assert surer[0] <= low + 1e-12
    assert surer[1] >= high - 1e-12


@quick
@given(accuracy=st.floats(0, 1), n=st.integers(1, 100_000))
def test_the_interval_around_an_accuracy_holds_it(accuracy: float, n: int) -> None:
    low, high = wilson_around(accuracy, n)
    assert 0 <= low <= accuracy <= high <= 1


@quick
@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_of_swapped_models_is_the_same(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    found, swapped = mcnemar(a, b), mcnemar(b, a)
    assert (found.only_a, found.only_b, found.p_value) == (swapped.only_b, swapped.only_a, swapped.p_value)
    assert 0 < found.p_value <= 1
    assert found.only_a - found.only_b == int(a.sum()) - int(b.sum())
    # Images on which both are right, or both wrong, say nothing.
    differ = a != b
    assert found.p_value == (mcnemar(a[differ], b[differ]).p_value if differ.any() else 1.0)
    assert mcnemar(~a, ~b).p_value == found.p_value


def test_wilson_of_a_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), Table I: 81 of 263 and 0 of 20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(InvalidValueError, match=f"{k} of {n}"):
        wilson(k, n)


def test_wilson_refuses_an_impossible_confidence() -> None:
    with pytest.raises(InvalidValueError, match="confidence"):
        wilson(1, 2, 1.0)


@settings(deadline=None)
@given(n=st.integers(1, 5000), accuracy=st.floats(0, 1))
def test_an_accuracy_of_no_whole_images_has_the_interval_of_the_nearest_count(n: int, accuracy: float) -> None:
    low, high = wilson_around(accuracy, n)
    assert low <= accuracy <= high
    near = [count for count in range(n + 1) if abs(count - accuracy * n) <= 0.5]  # two where it is in the middle
    assert any((low, high) == pytest.approx(wilson_by_hand(count, n, 0.95), abs=1e-9) for count in near)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (3, 7), (6, 6), (1, 9)])
def test_mcnemar_is_the_share_of_coin_flips_at_least_as_extreme(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * 4 + [False] * 3)
    b = np.array([False] * only_a + [True] * only_b + [True] * 4 + [False] * 3)
    flips = only_a + only_b
    gap = abs(only_a - only_b)
    extreme = sum(abs(2 * sum(outcome) - flips) >= gap for outcome in product((0, 1), repeat=flips))
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b, result.n) == (only_a, only_b, flips + 7)
    assert result.p_value == pytest.approx(extreme / 2**flips)
    assert mcnemar(b, a).p_value == mcnemar(a, b).p_value


@pytest.mark.parametrize("b", [np.ones(4, bool), np.ones((5, 1), bool)])
def test_mcnemar_refuses_different_images(b: Bools) -> None:
    with pytest.raises(InvalidValueError, match="same images"):
        mcnemar(np.ones(5, bool), b)


def test_mcnemar_refuses_no_images() -> None:
    with pytest.raises(InvalidValueError, match="same images"):
        mcnemar(np.ones(0, bool), np.ones(0, bool))


def test_mean_sd_over_seeds() -> None:
    spread = mean_sd([0.5, 0.6, 0.7])
    assert (spread.mean, spread.sd, spread.n) == pytest.approx((0.6, 0.1, 3))
    assert mean_sd([0.4, 0.6]).sd == pytest.approx(0.1 * math.sqrt(2))
    assert mean_sd([0.25]) == Spread(mean=0.25, sd=None, n=1)
    with pytest.raises(InvalidValueError, match="at least one"):
        mean_sd([])


def test_statistics_load_without_torch() -> None:
    code = "import sys, ensemble_bench.records.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
