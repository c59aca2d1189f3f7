"""The comparison by chance itself: its rate against exact sums, its power against simulation."""

import math

import pytest
import torch
from chance import FALSE_ALARM, discordant, power, tolerance, weaker


@pytest.mark.parametrize("n", [0, 1, 19, 20, 50, 301])
@pytest.mark.parametrize("comparisons", [1, 8])
def test_the_tolerance_is_the_least_that_keeps_the_false_alarm_rate(n: int, comparisons: int) -> None:
    def above(k: int) -> float:
        return sum(math.comb(n, i) for i in range(k + 1, n + 1)) / 2**n

    k = tolerance(n, comparisons=comparisons)
    assert above(k) <= FALSE_ALARM / comparisons
    assert k == 0 or above(k - 1) > FALSE_ALARM / comparisons


def test_twenty_images_to_none_are_the_first_that_tell() -> None:
    standing, broken = torch.ones(20, dtype=torch.bool), torch.zeros(20, dtype=torch.bool)
    assert weaker(standing, broken)
    assert not weaker(standing[1:], broken[1:])
    assert not weaker(standing, broken, comparisons=2)
    assert not weaker(broken, standing)


def test_images_on_which_both_agree_say_nothing() -> None:
    first = torch.tensor([[True, True, False], [False, True, False]])
    second = torch.tensor([[False, True, True], [False, False, False]])
    assert discordant(first, second) == (2, 3)


def test_power_is_a_lower_limit_of_what_simulation_finds() -> None:
    """Attacks that leave 60 % and 45 % of 600 images standing: found in most of 300 drawings, and power claims less."""
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.rand(300, 600, generator=generator) < share for share in (0.6, 0.45))
    pairs = list(zip(first, second, strict=True))
    found = sum(weaker(a, b) for a, b in pairs) / 300
    claimed = torch.tensor([power(a, b) for a, b in pairs])
    assert 0.4 < found < 0.8
    assert (claimed <= found).double().mean() > 0.95
    same = torch.rand(600, generator=generator) < 0.5
    assert power(first[0], first[0]) == 0
    assert power(same, ~same) < FALSE_ALARM
    assert power(torch.ones(600, dtype=torch.bool), ~torch.ones(600, dtype=torch.bool)) > 0.999999
