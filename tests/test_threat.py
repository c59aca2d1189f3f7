"""Threat geometry against brute force, and properties that hold for any image."""

import itertools
import math
import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensemble_bench import ThreatModel
from ensemble_bench.attacks.pgd import ifgsm, margin_pgd, pgd_adam
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.records import Threat
from ensemble_bench.records.threat import parse_eps

NORMS = ("linf", "l2")


def some(seed: int, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = (5, 1, 3, 4)) -> Tensor:
    """Random values in [low, high]."""
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def length(delta: Tensor, norm: str) -> Tensor:
    return delta.flatten(1).double().norm(p=math.inf if norm == "linf" else 2, dim=1)


threats = st.builds(ThreatModel, norm=st.sampled_from(NORMS), eps=st.floats(1e-3, 1.0))
seeds = st.integers(0, 2**32)


@given(threat=threats, seed=seeds, spread=st.floats(0.01, 3))
@settings(max_examples=60)
def test_projection_lands_inside_and_is_idempotent(threat: ThreatModel, seed: int, spread: float) -> None:
    x = some(seed)
    once = threat.project(x + some(seed + 1, -spread, spread), x)
    threat.check(once, x)
    assert (length(once - x, threat.norm) <= threat.eps + 5e-7).all()
    torch.testing.assert_close(threat.project(once, x), once, rtol=0, atol=2e-7)


@given(threat=threats, seed=seeds)
@settings(max_examples=60)
def test_projection_leaves_inside_points_alone(threat: ThreatModel, seed: int) -> None:
    x = some(seed)
    direction = some(seed + 1, -1, 1)
    sizes = length(direction, threat.norm).float().view(-1, 1, 1, 1)
    inside = (x + 0.999 * threat.eps * direction / sizes).clamp(0, 1)
    torch.testing.assert_close(threat.project(inside, x), inside, rtol=0, atol=2e-7)


@given(threat=threats, seed=seeds)
@settings(max_examples=60)
def test_random_start_is_inside(threat: ThreatModel, seed: int) -> None:
    x = some(seed)
    start = threat.random_start(x, some(seed + 1, -1, 1))
    threat.check(start, x)
    assert not torch.equal(start, x)


def feasible(threat: ThreatModel, x: Tensor, seed: int) -> Tensor:
    """Points of the ball and the box, many of them on an edge."""
    spread = some(seed, -2 * threat.eps, 2 * threat.eps, shape=tuple(x.shape)).to(x)
    return threat.project(x + spread, x)


@given(threat=threats, seed=seeds, spread=st.floats(0.01, 3))
@settings(max_examples=60)
def test_no_point_of_ball_and_box_is_nearer_than_the_projection(threat: ThreatModel, seed: int, spread: float) -> None:
    """In any number of pixels, by the angle to every other point: ⟨p − proj p, z − proj p⟩ ≤ 0 (Moreau 1965).

    Under l2 where the box does not bind; where it does, the projection is near and not the nearest.
    """
    low, high = (0.0, 1.0) if threat.norm == "linf" else (threat.eps, 1 - threat.eps)
    if low > high:
        low, high, threat = 0.3, 0.7, ThreatModel(norm="l2", eps=0.3)
    x = some(seed, low, high, shape=(4, 1, 3, 3)).double()
    point = x + some(seed + 1, -spread, spread, shape=(4, 1, 3, 3)).double()
    projected = threat.project(point, x)
    for other in range(2, 12):
        z = feasible(threat, x, seed + other)
        assert ((point - projected) * (z - projected)).flatten(1).sum(dim=1).max() <= 1e-9 * (1 + spread)


@given(threat=threats, seed=seeds, spread=st.floats(0.01, 3))
@settings(max_examples=60)
def test_projecting_brings_no_two_points_apart(threat: ThreatModel, seed: int, spread: float) -> None:
    """So that what rounding does to an image it does to its projection, and no more."""
    x = some(seed).double()
    one, other = (x + some(seed + i, -spread, spread).double() for i in (1, 2))
    gap = length(threat.project(one, x) - threat.project(other, x), "l2")
    assert (gap <= length(one - other, "l2") + 1e-9).all()


@given(threat=threats, seed=seeds)
@settings(max_examples=60)
def test_a_larger_ball_holds_the_smaller(threat: ThreatModel, seed: int) -> None:
    x = some(seed)
    inside = threat.project(x + some(seed + 1, -1, 1), x)
    larger = ThreatModel(norm=threat.norm, eps=min(1.0, 2 * threat.eps))
    larger.check(inside, x)
    torch.testing.assert_close(larger.project(inside, x), inside, rtol=0, atol=2e-7)


@given(norm=st.sampled_from(NORMS), seed=seeds, factor=st.floats(0, 5))
@settings(max_examples=60)
def test_distances_are_those_of_a_norm(norm: str, seed: int, factor: float) -> None:
    threat = ThreatModel(norm=norm)
    a, b, c = (some(seed + i, -2, 2).double() for i in range(3))
    distance = threat.distance
    assert (distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12).all()
    torch.testing.assert_close(distance(a, b), distance(b, a), rtol=0, atol=0)
    torch.testing.assert_close(distance(b + factor * (a - b), b), factor * distance(a, b))
    torch.testing.assert_close(distance(a + c, b + c), distance(a, b))
    assert not distance(a, a).any()
    assert (distance(a, b) > 0).all()
    # A pixel more counts in l2, the largest alone in linf.
    linf, l2 = (ThreatModel(norm=name).distance(a, b) for name in NORMS)
    assert (linf <= l2 + 1e-12).all()
    assert (l2 <= math.sqrt(a[0].numel()) * linf + 1e-12).all()


@given(norm=st.sampled_from(NORMS), seed=seeds, scale=st.floats(1e-25, 1e25))
@settings(max_examples=60)
def test_a_step_has_the_signs_of_its_gradient_and_not_its_size(norm: str, seed: int, scale: float) -> None:
    threat, grad = ThreatModel(norm=norm), some(seed, -1, 1)
    grad[:, :, 0, 0] = 0.0
    step = threat.steepest(grad)
    assert torch.equal(step.sign(), grad.sign())
    torch.testing.assert_close(threat.steepest(-grad), -step, rtol=0, atol=0)
    torch.testing.assert_close(threat.steepest(scale * grad), step, rtol=1e-5, atol=1e-6)
    x = torch.full_like(grad, 0.5)
    torch.testing.assert_close(threat.distance(x + step, x), torch.ones(len(x), dtype=torch.float64), rtol=1e-5, atol=0)


@given(steps=st.integers(1, 3000), eps=st.floats(1e-3, 1))
@settings(max_examples=100)
def test_a_pixel_can_travel_across_the_ball_in_any_number_of_steps(steps: int, eps: float) -> None:
    """Adam's steps are as long as their rates at most, which fall in a line to none; others have steps of one size."""
    rate = pgd_adam(steps).learning_rate * eps
    assert sum(rate * (1 - step / steps) for step in range(steps)) >= 2 * eps - 1e-9
    for make in (ifgsm, margin_pgd):
        size = make(steps).step_size
        assert size is not None
        if steps != 7 or make is margin_pgd:
            assert steps * size * eps == pytest.approx(2.5 * eps)
    assert 7 * (ifgsm(7).step_size or 0) == pytest.approx(7 / 4)  # Grefenstette et al.: 2/255 at eps = 8/255


def test_linf_random_start_is_uniform_in_the_ball() -> None:
    x = torch.full((1000, 2), 0.5)
    start = ThreatModel(eps=0.1).random_start(x, some(0, -1, 1, shape=(1000, 2)))
    uniform = torch.linspace(0.4, 0.6, 2000)
    gap = (start.flatten().sort().values - uniform).abs().max()  # Kolmogorov-Smirnov, at 0.1 % for n = 2000
    assert gap / 0.2 < 0.044


def test_l2_random_start_reaches_centre_and_edge_in_all_directions() -> None:
    x = torch.full((2000, 2), 0.5)
    delta = ThreatModel(norm="l2", eps=0.1).random_start(x, some(0, -1, 1, shape=(2000, 2))) - x
    radius = length(delta, "l2")
    assert radius.min() < 0.005
    assert radius.max() > 0.095
    angles = torch.atan2(delta[:, 1], delta[:, 0])
    assert torch.histc(angles, bins=8, min=-math.pi, max=math.pi).min() > 100


def test_noise_selects_the_start() -> None:
    """linf: noise times eps. l2: in the direction of the noise, as far as its first pixel says."""
    x, noise = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    linf, l2 = (ThreatModel(norm=norm, eps=0.1).random_start(x, noise) - x for norm in NORMS)
    torch.testing.assert_close(linf, torch.tensor([[0.05, -0.1]], dtype=torch.float64))
    root = math.sqrt(5)  # the noise is ½ (1, −2), of length ½ √5
    torch.testing.assert_close(l2, 0.05 * torch.tensor([[1 / root, -2 / root]], dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point_of_a_fine_grid(norm: str) -> None:
    """Two pixels: the feasible points of a grid, and the nearest of them to points in and outside the ball."""
    threat = ThreatModel(norm=norm, eps=0.3)
    axis = torch.linspace(0, 1, 201, dtype=torch.float64)
    grid = torch.tensor(list(itertools.product(axis.tolist(), repeat=2)), dtype=torch.float64)
    x = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    feasible = grid[length(grid - x, norm) <= threat.eps]
    for point in some(0, -0.5, 1.5, shape=(30, 2)).double():
        projected = threat.project(point[None], x)
        distances = (feasible - point).norm(dim=1)
        assert (projected - point).norm() <= distances.min() + 1e-9
        assert (projected - feasible[distances.argmin()]).norm() < 2 * 0.3 / math.sqrt(200)
    # At a corner of the box linf is still exact.
    corner = torch.tensor([[0.95, 0.1]], dtype=torch.float64)
    feasible = grid[length(grid - corner, "linf") <= 0.3]
    for point in some(1, -0.5, 1.5, shape=(30, 2)).double():
        projected = ThreatModel(eps=0.3).project(point[None], corner)
        assert (projected - point).norm() <= (feasible - point).norm(dim=1).min() + 1e-9


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-20, 1e-30])
def test_steepest_step_gains_most(norm: str, scale: float) -> None:
    """No random unit vector has a larger inner product with the gradient, however small that is."""
    grad = some(3, -1, 1, shape=(4, 6))
    step = ThreatModel(norm=norm).steepest(grad * scale)
    assert torch.allclose(length(step, norm), torch.ones(4, dtype=torch.float64), atol=1e-5)
    gain = (grad * step).sum(dim=1)
    random = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0))
    random = random.sign() if norm == "linf" else random / random.norm(dim=1, keepdim=True)
    assert (gain[:, None] >= grad @ random.T - 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradient_takes_no_step(norm: str) -> None:
    assert not ThreatModel(norm=norm).steepest(torch.zeros(2, 3)).any()
    assert ThreatModel(norm=norm).steepest(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("norm", NORMS)
def test_distance_is_the_norm_in_double_precision(norm: str) -> None:
    x, x_adv = some(0), some(1)
    found = ThreatModel(norm=norm).distance(x_adv, x)
    assert found.dtype == torch.float64
    expected = [d.abs().max() if norm == "linf" else d.square().sum().sqrt() for d in x_adv.double() - x.double()]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("norm", NORMS)
def test_check_raises_and_never_clips(norm: str) -> None:
    threat = ThreatModel(norm=norm, eps=0.1)
    x = torch.full((3, 1, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[1, 0, 0, 0] += 0.1001
    kept = x_adv.clone()
    with pytest.raises(AttackError, match=f"leaves the {norm} ball: distance 0.1001, eps 0.1"):
        threat.check(x_adv, x)
    assert torch.equal(x_adv, kept)
    x_adv[1, 0, 0, 0] = 0.6
    threat.check(x_adv, x)  # on the edge is inside
    for value, message in ((math.nan, "NaN"), (math.inf, "infinite")):
        broken = x.clone()
        broken[2, 0, 1, 1] = value
        with pytest.raises(AttackError, match=message):
            threat.check(broken, x)
    with pytest.raises(AttackError, match=r"shape \(2, 1, 2, 2\)"):
        threat.check(x_adv[:2], x)
    threat.check(x[:0], x[:0])


@pytest.mark.parametrize(
    ("norm", "eps", "inside", "outside"),
    [
        ("linf", 0.1, 5e-7, 2e-6),
        ("linf", 0.4, 5e-7, 2e-6),
        ("l2", 0.1, 9e-6, 1.5e-5),
        ("l2", 4.0, 3e-5, 5e-5),  # rounding grows with the radius
    ],
)
def test_check_forgives_rounding_alone(norm: str, eps: float, inside: float, outside: float) -> None:
    """100 pixels of 0, of which each moves alike, further than eps by so much."""
    threat, x = ThreatModel(norm=norm, eps=eps), torch.zeros(1, 100, dtype=torch.float64)
    share = 1 if norm == "linf" else 10
    threat.check(x + (eps + inside) / share, x)
    with pytest.raises(AttackError, match=f"leaves the {norm} ball"):
        threat.check(x + (eps + outside) / share, x)


@pytest.mark.parametrize("side", [-0.01, 1.01])
def test_check_raises_outside_the_box(side: float) -> None:
    x = torch.full((1, 4), min(max(side, 0.0), 1.0))
    with pytest.raises(AttackError, match=r"image box \[0, 1\]"):
        ThreatModel(eps=0.5).check(torch.full((1, 4), side), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0, -0.1, math.nan, math.inf, "8/255", None, True])
def test_bad_eps(norm: str, eps: object) -> None:
    with pytest.raises(InvalidValueError, match=r"eps is .*: it must be a positive number"):
        ThreatModel(norm=norm, eps=eps)  # type: ignore[arg-type]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_eps_is_read_as_a_fraction(above: int, below: int) -> None:
    exact = Fraction(above, below)
    assert parse_eps(f"{above}/{below}") == pytest.approx(float(exact), rel=1e-15)
    assert parse_eps(repr(float(exact))) == float(exact)


@pytest.mark.parametrize(
    "text", ["0", "-1", "8/0", "0/255", "nan", "inf", "eight", "", "8/255/2", "-8/-0", "1e999", "1_0/255", "٨/255"]
)
def test_eps_that_is_not_positive_is_named(text: str) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(repr(text))):
        parse_eps(text)


def test_bad_norm_and_eps_in_255ths() -> None:
    with pytest.raises(InvalidValueError, match="norm is 'l1': choose from linf, l2"):
        ThreatModel(norm="l1")
    for eps in (1.001, 8):
        with pytest.raises(InvalidValueError, match="8 means 8/255"):
            ThreatModel(eps=eps)
    assert ThreatModel(eps=1).eps == 1  # any image of the box is within 1 of any other
    assert ThreatModel(norm="l2", eps=8).as_dict() == {"norm": "l2", "eps": 8}


def test_one_threat_is_data_and_geometry() -> None:
    data, geometry = Threat.parse("8/255"), ThreatModel.parse("0.5", "l2")
    assert (data, str(data), data.slug) == (Threat(norm="linf", eps=8 / 255), "linf 8/255", "linf8of255")
    assert isinstance(geometry, ThreatModel)
    assert (str(geometry), geometry.slug, geometry.as_dict()) == ("l2 0.5", "l2-0_5", {"norm": "l2", "eps": 0.5})
    assert sorted([Threat(norm="linf", eps=0.2), Threat(norm="l2", eps=0.5), Threat(norm="linf", eps=0.1)]) == [
        Threat(norm="l2", eps=0.5),
        Threat(norm="linf", eps=0.1),
        Threat(norm="linf", eps=0.2),
    ]
    with pytest.raises(InvalidValueError, match="eps is '8/0'"):
        Threat.parse("8/0")
