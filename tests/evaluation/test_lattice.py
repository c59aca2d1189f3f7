"""The lattice of 8-bit images: against every lattice point in small cases, and never outside the ball."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_bench import ThreatModel
from ensemble_bench.evaluation.lattice import eight_bit


def images(levels: list[list[float]]) -> torch.Tensor:
    """Images of one row of pixels, given in levels of 1/255."""
    return torch.tensor(levels, dtype=torch.float32).view(len(levels), 1, 1, -1) / 255


def test_linf_is_the_nearest_level_inside_the_ball() -> None:
    threat = ThreatModel(eps=8 / 255)
    x = images([[0, 100, 250, 255, 50]])
    x_adv = images([[3.4, 92.0, 254.6, 255, 57.51]])
    levels, inside = eight_bit(x_adv, x, threat)
    assert levels.flatten().tolist() == [3, 92, 255, 255, 58]
    assert inside.all()
    # Half a level further than a whole number of levels: 58.6 is nearest to 59, which is 9 from 50.
    levels, inside = eight_bit(images([[58.6]]), images([[50]]), ThreatModel(eps=8.7 / 255))
    assert levels.flatten().tolist() == [58]
    assert inside.all()


def test_a_ball_without_a_lattice_point_is_said_to_have_none() -> None:
    x = images([[10.5, 20.0], [10.0, 20.0]])
    _, inside = eight_bit(x, x, ThreatModel(eps=0.2 / 255))
    assert inside.tolist() == [False, True]


@given(
    x=st.lists(st.integers(0, 255), min_size=3, max_size=3),
    delta=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    eps=st.floats(0.5, 6),
)
@settings(max_examples=200, deadline=None)
def test_l2_stays_in_the_ball_and_keeps_the_nearest_where_that_is_inside(
    x: list[int], delta: list[float], eps: float
) -> None:
    threat = ThreatModel(norm="l2", eps=eps / 255)
    origin = images([list(map(float, x))])
    x_adv = threat.project(origin + torch.tensor(delta).view(1, 1, 1, 3) * eps / 255, origin)
    levels, inside = eight_bit(x_adv, origin, threat)
    assert inside.all()
    threat.check(levels.float() / 255, origin)
    nearest = (255 * x_adv.double()).round()
    if ((nearest - 255 * origin.double()) ** 2).sum() <= eps**2:
        assert torch.equal(levels.double(), nearest)
    # No pixel is further than the next level on its other side.
    assert ((levels.double() - 255 * x_adv.double()).abs() < 1 + 1e-4).all()


def test_l2_moves_no_more_pixels_than_it_must() -> None:
    """Three pixels rounded outwards; of all choices that bring the image inside, a cheapest one moves one pixel."""
    threat = ThreatModel(norm="l2", eps=5 / 255)
    origin, wanted = [100.0, 100.0, 100.0], [102.8, 102.9, 102.6]
    levels, inside = eight_bit(images([wanted]), images([origin]), threat)
    assert inside.all()
    choices = [
        c for c in itertools.product(*((int(w), int(w) + 1) for w in wanted)) if sum((v - 100) ** 2 for v in c) <= 25
    ]
    fewest = min(sum(v == int(w) for v, w in zip(c, wanted, strict=True)) for c in choices)
    assert levels.flatten().tolist() in [list(c) for c in choices]
    assert sum(v == int(w) for v, w in zip(levels.flatten().tolist(), wanted, strict=True)) == fewest == 1
    assert levels.flatten().tolist() == [103, 103, 102]  # of these the one that is nearly half way anyway


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_on_the_lattice_stays_as_it_is(norm: str) -> None:
    x = torch.randint(0, 256, (4, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    levels, inside = eight_bit(x / 255, x / 255, ThreatModel(norm=norm, eps=1 / 255))
    assert torch.equal(levels.long(), x)
    assert inside.all()
