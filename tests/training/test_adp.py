"""The objective "adp": its value in NumPy, its limits, and that members trained with it do diverge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ensemble_bench.data import DataSource
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.registry import RECIPES
from ensemble_bench.training import plan as plans
from ensemble_bench.training.algorithm1 import update
from ensemble_bench.training.objectives import JITTER, adp_loss, log_diversity, objective_of
from ensemble_bench.training.trainer import train


class _Fixed(nn.Module):
    """Logits that are the parameter, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.clone()


def _random(members: int, *, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(members, 6, 10, generator=noise, dtype=torch.float64)
    return logits, torch.randint(10, (6,), generator=noise)


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    x = torch.zeros(len(y), 1, 2, 2, dtype=logits.dtype)
    return adp_loss(Ensemble([_Fixed(member) for member in logits]), x, y)


def _published(logits: Tensor, y: Tensor) -> list[float]:
    """The paper's loss, image by image: Σ CE − 2 H(mean) − ½ log det(MᵀM + 1e-6 · I)."""
    values = []
    for n, right in enumerate(y.tolist()):
        scores = np.exp(logits[:, n].numpy())
        probs = scores / scores.sum(axis=1, keepdims=True)
        mean = probs.mean(axis=0)
        m = np.stack([np.delete(p, right) / np.linalg.norm(np.delete(p, right)) for p in probs], axis=1)
        volume = np.prod(np.linalg.eigvalsh(m.T @ m + 1e-6 * np.eye(len(probs))))
        values.append(-np.log(probs[:, right]).sum() + 2 * (mean * np.log(mean)).sum() - 0.5 * np.log(volume))
    return values


@pytest.mark.parametrize("members", [2, 3, 4])
def test_value_is_the_published_one(members: int) -> None:
    logits, y = _random(members)
    np.testing.assert_allclose(_loss(logits, y).detach().numpy(), _published(logits, y), rtol=1e-10)


def test_float32_agrees_with_float64() -> None:
    logits, y = _random(3)
    np.testing.assert_allclose(_loss(logits.float(), y).detach().numpy(), _published(logits, y), rtol=1e-4)


def test_gradient_is_that_of_finite_differences() -> None:
    logits, y = _random(3, scale=1.0)
    assert torch.autograd.gradcheck(lambda z: log_diversity(z, y), logits.requires_grad_())


def test_orthogonal_predictions_have_volume_one() -> None:
    # Each member's wrong probability lies on a class of its own.
    logits = torch.full((3, 2, 10), -60.0, dtype=torch.float64)
    y = torch.tensor([0, 9])
    for member in range(3):
        logits[member, :, 2 + member] = 1.0
        logits[member, range(2), y] = 2.0
    np.testing.assert_allclose(log_diversity(logits, y), 3 * np.log1p(JITTER), atol=1e-12)


def test_two_members_span_the_sine_of_their_angle() -> None:
    angle = 0.3
    logits = torch.full((2, 1, 3), -40.0, dtype=torch.float64)
    logits[0, 0, 1:] = torch.tensor([np.cos(angle), np.sin(angle)]).log()
    logits[1, 0, 1:] = torch.tensor([1.0, 1e-18]).log()
    volume = log_diversity(logits, torch.tensor([0])).item()
    assert volume == pytest.approx(np.log(np.sin(angle) ** 2), abs=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, 1000.0])
def test_gradient_is_finite_where_members_agree(scale: float) -> None:
    # Float32, at exactly the point where det G = 0, from uniform predictions to ones that saturate.
    one = scale * torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(1))
    logits = one.expand(3, -1, -1).clone().requires_grad_()
    value = log_diversity(logits, torch.arange(6))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    # Two of the three eigenvalues are the jitter.
    assert value.detach().numpy() == pytest.approx(np.full(6, np.log(3) + 2 * np.log(JITTER)), abs=0.5)
    assert gradient.isfinite().all()


def test_confident_members_still_learn_to_diverge() -> None:
    # p_y is 1 in float32 and the wrong classes underflow to 0: their ratios, and the gradient, remain.
    logits, y = _random(2)
    shift = torch.zeros_like(logits).scatter(2, y[None, :, None].expand(2, -1, -1), 200.0)
    near, far = logits.float().requires_grad_(), (logits + shift).float().requires_grad_()
    values = log_diversity(near, y), log_diversity(far, y)
    torch.testing.assert_close(values[0], values[1])
    slopes = [torch.autograd.grad(v.sum(), z)[0] for v, z in zip(values, (near, far), strict=True)]
    torch.testing.assert_close(slopes[0], slopes[1])
    assert slopes[1].abs().max() > 1e-2


def test_autocast_leaves_the_determinant_alone() -> None:
    logits, y = (t.float() if t.is_floating_point() else t for t in _random(3, scale=0.1))
    with torch.autocast("cpu", torch.bfloat16):
        inside = log_diversity(logits, y)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, log_diversity(logits, y))


def _after(objective: str, precision: str = "float32") -> tuple[Tensor, Tensor]:
    """Log diversity and mean probability of the right class, image by image, of members that began nearly alike."""
    logits, y = _random(1)
    noise = 0.1 * torch.randn(2, *logits.shape[1:], generator=torch.Generator().manual_seed(1))
    model, x = Ensemble([_Fixed(member) for member in logits.float() + noise]), torch.zeros(len(y), 1, 2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(300):
        update(model, optimizer, x, None, y, objective=objective_of(objective), precision=precision)
    with torch.no_grad():
        return log_diversity(model.member_logits(x), y), model(x).exp().gather(1, y[:, None])[:, 0]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_members_diverge_and_still_learn(precision: str) -> None:
    alike, _ = _after("ensemble")
    diverged, right = _after("adp", precision)
    assert (diverged > np.log(0.9)).all()  # of the volume 1 that orthogonal predictions have
    assert (diverged > alike + 1).all()
    assert (right > 0.4).all()  # and two classes share what is left


@pytest.mark.parametrize("recipe", ["ensemble2", "ensemble4adv"])
def test_recipes_of_many_members_take_it(tmp_path: Path, recipe: str) -> None:
    run = train(recipe, objective="adp", max_steps=2, out=tmp_path / "run")
    assert checkpoint.load(run / "last.safetensors").info.meta["objective"] == "adp"  # type: ignore[union-attr]


@pytest.mark.parametrize("recipe", ["baseline", "singleadv", "doubleadv", "separate2adv"])
def test_one_member_is_refused_before_anything_is_written(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(InvalidValueError, match="adp needs at least two members"):
        train(recipe, objective="adp", out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_gate_cannot_learn_from_it(digits: DataSource) -> None:
    with pytest.raises(InvalidValueError, match="gate"):
        plans.resolve(RECIPES["gated2adv"], digits, preset="tiny", seed=0, device=torch.device("cpu"), objective="adp")
