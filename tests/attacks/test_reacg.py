"""ReACG: directions that are conjugate, a coefficient that no scale changes, and the search that follows."""

import torch
from small_models import images, trained
from torch import Tensor

from ensemble_bench import ThreatModel, attacks
from ensemble_bench.attacks.reacg import ReACG, coefficient, hestenes_stiefel


def vectors(rows: int = 20, pixels: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients here and before, and a direction."""
    drawn = torch.randn(3, rows, pixels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn[0], drawn[1], drawn[2]


def test_directions_are_conjugate() -> None:
    grad, before, along = vectors()
    direction = grad + hestenes_stiefel(grad, before, along)[:, None] * along
    torch.testing.assert_close((direction * (before - grad)).sum(dim=1), torch.zeros(20, dtype=torch.float64))


def test_two_exact_steps_reach_the_top_of_a_quadratic_in_two_dimensions() -> None:
    """As conjugate gradients do, where steepest ascent zigzags."""
    hessian, top = torch.tensor([[5.0, 2.0], [2.0, 1.0]]).double(), torch.tensor([3.0, -1.0]).double()

    def gradient(x: Tensor) -> Tensor:
        return hessian @ (top - x)

    x, before, along = torch.zeros(2).double(), torch.zeros(2).double(), torch.zeros(2).double()
    for _ in range(2):
        grad = gradient(x)
        along = grad + hestenes_stiefel(grad[None], before[None], along[None]) * along
        x = x + (grad @ along) / (along @ hessian @ along) * along
        before = grad
    torch.testing.assert_close(x, top)


def test_the_first_direction_is_the_gradient() -> None:
    grad, _, _ = vectors()
    nothing = torch.zeros_like(grad)
    assert not coefficient(grad, nothing, nothing).any()
    assert not coefficient(grad, grad, vectors()[2]).any()  # where the gradient did not change


def test_neither_the_length_of_the_direction_nor_tiny_gradients_matter() -> None:
    grad, before, along = vectors()
    beta = coefficient(grad, before, along)
    torch.testing.assert_close(coefficient(grad, before, 1e5 * along), beta / 1e5)
    tiny = hestenes_stiefel(1e-40 * grad, 1e-40 * before, 1e-40 * along)
    torch.testing.assert_close(tiny, hestenes_stiefel(grad, before, along))


def test_a_coefficient_that_dominates_is_rescaled_and_no_other() -> None:
    grad, before, along = vectors(200)
    scale = 10 * torch.rand(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad, before = scale * grad, 5 * before
    plain, found = hestenes_stiefel(grad, before, along), coefficient(grad, before, along)
    unit = [v / v.norm(dim=1, keepdim=True) for v in (grad, before)]
    rescaled = hestenes_stiefel(*unit, along)
    changed = found != plain
    assert 0 < changed.sum() < 200
    torch.testing.assert_close(found[changed], rescaled[changed])
    assert (found.abs() <= plain.abs()).all()
    dominates = plain.abs() > (grad / along).abs().mean(dim=1)
    assert torch.equal(changed, dominates & (rescaled.abs() < plain.abs()))


def test_steps_halve_at_the_papers_checkpoints() -> None:
    attack = attacks.get("reacg100")
    assert isinstance(attack, ReACG)
    # 0.43, then gaps shorter by 0.24 each and at least 0.08.
    assert attack.checkpoints() == [0, 43, 62, 70, 78, 86, 94]


def test_it_breaks_more_than_a_few_plain_steps() -> None:
    (x, y), threat = images(200), ThreatModel(eps=0.1)
    for members in (1, 2):
        few, found = (attacks.get(name).run(trained(members=members), x, y, threat) for name in ("ifgsm2", "reacg20"))
        assert found.broken.sum() > few.broken.sum() + 3
