"""The test of a difference over seeds and images: closed forms, and its level and power in simulated factorials."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from chance import FALSE_ALARM
from factorials import MARGINS, RECIPES, Factorial, arrays, judged, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.records.contrasts import (
    MIN_SEEDS,
    PSEUDO_IMAGES,
    SeedVariance,
    contrast,
    difference,
    holm,
    paired,
    seed_variance,
)
from ensemble_bench.reports.claims import CLAIMS

Bools = NDArray[np.bool_]
LEVEL = 0.05
POINT = 0.01


def right_on(n: int, *counts: int) -> Bools:
    """Seeds that are right on so many of n images each, the first ones."""
    return np.array([np.arange(n) < count for count in counts])


def coins(n: int, seed: int, seeds: int = 3, p: float = 0.5) -> Bools:
    return np.random.default_rng(seed).random((seeds, n)) < p


def test_with_many_images_and_no_pool_it_is_welchs_test_of_the_seeds() -> None:
    # All seeds are right on the first images, so that the variance over images is small beside that over seeds.
    left, right = [4000, 4200, 4500], [3000, 3700, 3100, 3300]
    found = contrast([right_on(10_000, *left)], [right_on(10_000, *right)])
    seeds = [np.array(left) / 10_000, np.array(right) / 10_000]
    welch = stats.ttest_ind(*seeds, equal_var=False)
    assert found.difference == pytest.approx(welch.confidence_interval().low / 2 + welch.confidence_interval().high / 2)
    own = sum(np.var(s, ddof=1) / len(s) for s in seeds)
    by_image = right_on(10_000, *left).mean(0) - right_on(10_000, *right).mean(0)
    images = (10_000 * by_image.var() + PSEUDO_IMAGES) / (10_000 + PSEUDO_IMAGES) ** 2
    assert found.se**2 == pytest.approx(own + images)
    assert welch.df <= found.df < 1.1 * welch.df
    # A wider and more certain interval: the images add variance, and their degrees of freedom.
    assert found.p_value == pytest.approx(welch.pvalue, rel=0.1)


def test_with_equal_seeds_it_is_the_paired_test_of_the_images() -> None:
    left, right = coins(20_000, 1, seeds=1, p=0.51).repeat(3, 0), coins(20_000, 2, seeds=1).repeat(3, 0)
    found = contrast([left], [right])
    paired = stats.ttest_rel(left[0].astype(float), right[0].astype(float))
    assert found.p_value == pytest.approx(paired.pvalue, rel=0.01)
    # Four of 20,000 images more make the interval wider by a part in ten thousand.
    width = paired.confidence_interval().high - paired.confidence_interval().low
    assert found.ci_high - found.ci_low == pytest.approx(width, rel=3e-4)
    assert found.df == pytest.approx(19_999)


def test_two_models_are_compared_by_mcnemars_test_and_students_interval() -> None:
    left, right = right_on(400, 300)[0], right_on(400, 280)[0]
    left[:10] = False  # right on 20 images alone, wrong on 10 alone
    found = paired(left, right)
    assert found.difference == pytest.approx(10 / 400)
    assert found.p_value == pytest.approx(stats.binomtest(20, 30).pvalue)
    # 30 images differ by 1, whose squares about the mean add up to 30 − 400 · 0.025²; and Agresti and Coull's four.
    se = (30 - 400 * 0.025**2 + 4) ** 0.5 / 404
    assert (found.se, found.df) == pytest.approx((se, 399))
    reach = stats.t.isf(0.025, 399) * se
    assert (found.ci_low, found.ci_high) == pytest.approx((0.025 - reach, 0.025 + reach))


@pytest.mark.parametrize("both", [True, False])
def test_shares_of_draws_are_compared_by_students_test(both: bool) -> None:
    shares = np.random.default_rng(0).random((2, 20_000))
    left, right = shares[0], shares[1] + 0.005 if both else shares[1] < 0.51
    expected = stats.ttest_rel(left, right)
    found = paired(left, right)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.01)
    low, high = expected.confidence_interval()
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=1e-5)
    assert paired(right, left).p_value == pytest.approx(found.p_value)


def test_no_interval_leaves_what_a_difference_can_be() -> None:
    found = paired(right_on(5, 5)[0], right_on(5, 0)[0])
    assert (found.difference, found.ci_high) == (1.0, 1.0)
    assert paired(right_on(5, 0)[0], right_on(5, 5)[0]).ci_low == -1.0


def test_two_images_are_enough_and_one_is_not() -> None:
    assert contrast([right_on(2, 2, 2, 2)], [right_on(2, 1, 1, 1)]).difference == 0.5
    assert paired(right_on(2, 2)[0], right_on(2, 1)[0]).difference == 0.5
    for left, right in ((right_on(1, 1)[0], right_on(1, 0)[0]), (right_on(3, 1)[0], right_on(2, 1)[0])):
        with pytest.raises(InvalidValueError, match="the same images"):
            paired(left, right)


def test_sides_of_several_recipes_are_the_means_of_their_recipes() -> None:
    a, b, c, d = (coins(500, i) for i in range(4))
    found = contrast([a, b], [c, d])
    assert found.difference == pytest.approx((a.mean() + b.mean() - c.mean() - d.mean()) / 2)
    assert difference([a, b], [c, d]) == pytest.approx(found.difference)
    assert contrast([c, d], [a, b]).difference == pytest.approx(-found.difference)
    assert contrast([c, d], [a, b]).p_value == pytest.approx(found.p_value)


def test_the_null_moves_the_p_value_and_not_the_interval() -> None:
    a, b = coins(400, 0, p=0.6), coins(400, 1)
    plain, moved = contrast([a], [b]), contrast([a], [b], null=0.05)
    assert (plain.ci_low, plain.ci_high) == (moved.ci_low, moved.ci_high)
    for found, null in ((plain, 0.0), (moved, 0.05)):
        expected = 2 * stats.t.sf(abs(found.difference - null) / found.se, found.df)
        assert found.p_value == pytest.approx(expected)
    assert contrast([a], [b], null=plain.ci_high).p_value == pytest.approx(LEVEL)


def test_the_larger_of_own_and_pooled_variance_counts() -> None:
    a, b = right_on(10_000, 4900, 5000, 5100), right_on(10_000, 4900, 5000, 5100)
    own = contrast([a], [b])
    assert contrast([a], [b], pooled=SeedVariance(variance=0.005**2, df=20)) == own
    floor = contrast([a], [b], pooled=SeedVariance(variance=0.02**2, df=20))
    assert floor.se**2 - own.se**2 == pytest.approx((0.02**2 - 0.01**2) * 2 / 3)
    assert floor.df == pytest.approx(20, rel=0.01)


def test_variances_between_seeds_are_pooled_by_their_degrees_of_freedom() -> None:
    pooled = seed_variance([right_on(100, 10, 20), right_on(100, 50, 50, 56), right_on(100, 7)])
    assert pooled is not None
    assert pooled.df == 3
    assert pooled.variance == pytest.approx((50 + 24) / 3 / 100**2)
    assert seed_variance([right_on(100, 7)]) is None


def test_no_discordant_image_leaves_some_doubt() -> None:
    """With 0 of n images a true difference of −ln(0.05)/n is found in 5 % of cases (the rule of three)."""
    for n in (50, 300, 3000):
        found = contrast([right_on(n, 0, 0, 0)], [right_on(n, 0, 0, 0)])
        assert found.difference == 0
        assert 3 / n < found.ci_high < 5 / n


@pytest.mark.parametrize("seeds", range(1, MIN_SEEDS))
def test_too_few_seeds_are_refused(seeds: int) -> None:
    with pytest.raises(InvalidValueError, match=f"at least {MIN_SEEDS} seeds"):
        contrast([coins(10, 0)], [coins(10, 1, seeds=seeds)])


@pytest.mark.parametrize("other", [coins(9, 0), coins(10, 0)[0], coins(10, 0)[:0], coins(1, 0)])
def test_other_images_are_refused(other: Bools) -> None:
    with pytest.raises(InvalidValueError, match="the same images"):
        contrast([coins(10, 0)], [other])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_as_its_step_down_rule_does() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.random(9) ** 3
        steps = sorted(p)
        passed = [value < LEVEL / (9 - i) for i, value in enumerate(steps)]
        expected = {value for i, value in enumerate(steps) if all(passed[: i + 1])}
        assert {value for value, corrected in zip(p, holm(p), strict=True) if corrected < LEVEL} == expected
        ordered = [corrected for _, corrected in sorted(zip(p, holm(p), strict=True))]
        assert all(a <= b for a, b in pairwise(ordered))


quick = settings(max_examples=60)
p_lists = st.lists(st.floats(0, 1), max_size=12)


@quick
@given(p=p_lists, data=st.data())
def test_holm_is_never_below_what_it_corrects_and_keeps_its_order(p: list[float], data: st.DataObject) -> None:
    found = holm(p)
    assert all(raw <= corrected <= 1 for raw, corrected in zip(p, found, strict=True))
    assert all(a <= b for (_, a), (_, b) in pairwise(sorted(zip(p, found, strict=True))))
    assert not p or min(found) == pytest.approx(min(1.0, len(p) * min(p)))
    # The order of the tests is nothing, and one more of them makes none surer.
    order = data.draw(st.permutations(range(len(p))))
    assert holm([p[i] for i in order]) == [found[i] for i in order]
    more = holm([*p, data.draw(st.floats(0, 1))])
    assert all(a <= b for a, b in zip(found, more, strict=False))


@st.composite
def recipes(draw: st.DrawFn, n: int, dtype: type) -> NDArray[Any]:
    seeds = draw(st.integers(MIN_SEEDS, 5))
    values = st.booleans() if dtype is bool else st.floats(0, 1)
    rows = draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=seeds, max_size=seeds))
    return np.array(rows, dtype=dtype)


@quick
@given(data=st.data(), n=st.integers(2, 12), dtype=st.sampled_from([bool, float]))
def test_swapped_sides_are_the_opposite(data: st.DataObject, n: int, dtype: type) -> None:
    sides = [data.draw(st.lists(recipes(n, dtype), min_size=1, max_size=2)) for _ in range(2)]
    pooled = data.draw(st.none() | st.builds(SeedVariance, variance=st.floats(0, 0.1), df=st.integers(1, 30)))
    null = data.draw(st.floats(-0.2, 0.2))
    found = contrast(*sides, null=null, pooled=pooled)
    swapped = contrast(*reversed(sides), null=-null, pooled=pooled)
    assert swapped.difference == pytest.approx(-found.difference, abs=1e-12)
    assert (swapped.se, swapped.df, swapped.p_value) == pytest.approx((found.se, found.df, found.p_value), abs=1e-12)
    assert (swapped.ci_low, swapped.ci_high) == pytest.approx((-found.ci_high, -found.ci_low), abs=1e-12)
    assert -1 <= found.ci_low <= found.difference + 1e-12
    assert found.difference - 1e-12 <= found.ci_high <= 1
    assert 0 <= found.p_value <= 1
    assert difference(*sides) == pytest.approx(found.difference, abs=1e-12)
    assert contrast(sides[0], sides[0]).p_value == pytest.approx(1)


@quick
@given(data=st.data(), n=st.integers(2, 40), dtype=st.sampled_from([bool, float]))
def test_swapped_models_are_the_opposite(data: st.DataObject, n: int, dtype: type) -> None:
    values = st.lists(st.booleans() if dtype is bool else st.floats(0, 1), min_size=n, max_size=n)
    left, right = (np.array(data.draw(values), dtype=dtype) for _ in range(2))
    found, swapped = paired(left, right), paired(right, left)
    assert swapped.difference == pytest.approx(-found.difference, abs=1e-12)
    assert swapped.p_value == pytest.approx(found.p_value)
    assert (swapped.ci_low, swapped.ci_high) == pytest.approx((-found.ci_high, -found.ci_low), abs=1e-12)
    assert found.difference == pytest.approx(left.mean() - right.mean(), abs=1e-12)


def wrong_families(
    times: int, seed: int, decided: Callable[[Factorial], bool], seed_sd: float | Mapping[str, float]
) -> int:
    """In how many simulated factorials without any true claim `decided` finds one, or its reverse."""
    generator = np.random.default_rng(seed)
    return sum(decided(simulate(generator, n=1000, gains=MARGINS, seed_sd=seed_sd)) for _ in range(times))


UNEVEN = {recipe: (0.1 if i % 2 else 1.0) * POINT for i, recipe in enumerate(RECIPES)}


@pytest.mark.parametrize(
    "seed_sd", [0.0, 0.3 * POINT, 1 * POINT, 2 * POINT, UNEVEN], ids=["0", "0.3", "1", "2", "both"]
)
def test_recipes_that_differ_by_seed_alone_are_hardly_ever_shown(seed_sd: float | Mapping[str, float]) -> None:
    """The whole factorial, all claims: no more than 5 % of families hold any claim that is shown, or reversed.

    False alarm: the level is at most 2 % here (benchmarks/verdict_level.py), at which more than 5 % of so many come up
    in fewer than one of 1,000 such tests; the generator is seeded.
    """
    times = 300
    assert stats.binom.sf(LEVEL * times, times, 0.02) < 1e-3
    assert wrong_families(times, 1, _any_decided, seed_sd) <= LEVEL * times


def test_the_simulation_catches_a_test_that_takes_seeds_for_fixed() -> None:
    """A paired test of the images alone, with Holm, as if no other seeds had been possible, fails the test above."""
    times = 60
    tolerance = stats.binom.isf(FALSE_ALARM, times, LEVEL)
    assert wrong_families(times, 2, _any_decided_on_images_alone, 2 * POINT) > tolerance


def test_a_difference_of_two_points_is_found_with_three_seeds() -> None:
    """On 10,000 images, with 0.3 points between seeds: a claim of 12 is shown in 84 % of cases, all being corrected.

    The power is from benchmarks/verdict_level.py (4,000 factorials: 84 ± 1 %). False alarm: at a power of 80 % or more
    this fails with a probability of at most 1e-6. With 1 point between seeds, or on 1,000 images, power is a tenth.
    """
    times, generator = 100, np.random.default_rng(3)
    gains = {**MARGINS, "ensemble2adv": 2 * POINT}
    shown = 0
    for _ in range(times):
        found = judged(simulate(generator, n=10_000, seed_sd=0.3 * POINT, gains=gains))
        shown += next(j.outcome == "shown" for j in found if j.claim.name == "wider-2")
    least = stats.binom.ppf(FALSE_ALARM, times, 0.8)
    assert stats.binom.cdf(least - 1, times, 0.4) > 0.999  # it would fail if the claim were shown in 40 % of cases
    assert shown >= least


def _any_decided(factorial: Factorial) -> bool:
    return any(judgement.outcome != "not shown" for judgement in judged(factorial))


def _any_decided_on_images_alone(factorial: Factorial) -> bool:
    p_values = []
    for claim in CLAIMS.values():
        left, right = arrays(claim, factorial)
        by_image = np.mean([r.mean(0) for r in left], axis=0) - np.mean([r.mean(0) for r in right], axis=0)
        p_values.append(float(stats.ttest_1samp(by_image, claim.margin).pvalue))
    return min(holm(p_values)) < LEVEL
