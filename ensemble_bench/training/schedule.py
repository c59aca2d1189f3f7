"""Learning-rate schedules: factors of the peak rate, as functions of (step, steps)."""

from collections.abc import Callable, Mapping

# The paper drops the rate after 30k, 60k and 90k of its 500k steps; shorter runs keep the fractions.
STAIRCASE_FRACTIONS = (30 / 500, 60 / 500, 90 / 500)
STAIRCASE_FACTOR = 0.2
# Where the cyclic rate peaks: Wong et al. (2020) and de Jorge et al. (2022) rise for 2/5 to 1/2 of the run.
CYCLIC_PEAK = 0.4


def staircase(step: int, steps: int) -> float:
    """1, then × 0.2 after each of the paper's three fractions of training."""
    passed = sum(step >= fraction * steps for fraction in STAIRCASE_FRACTIONS)
    return float(STAIRCASE_FACTOR**passed)


def cyclic(step: int, steps: int) -> float:
    """Linear from 0 to 1 at 40 % of training, then linear to 0; no step has a rate of exactly 0 (Smith 2018)."""
    done = (step + 0.5) / steps
    return min(done / CYCLIC_PEAK, (1 - done) / (1 - CYCLIC_PEAK))


SCHEDULES: Mapping[str, Callable[[int, int], float]] = {"staircase": staircase, "cyclic": cyclic}
