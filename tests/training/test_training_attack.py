"""Training attacks against plain loops written from their formulas."""

from collections.abc import Callable

import pytest
import torch
from small_models import images, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.models.folded import folded
from ensemble_bench.training.attack import check_name, perturb, perturb_members, steps_of

THREAT = ThreatModel(eps=0.1)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    return grad


@pytest.mark.parametrize(
    ("start", "noise"),
    [
        ("none", lambda x: torch.zeros_like(x)),
        ("uniform", lambda x: 0.1 * (2 * torch.rand(x.shape, generator=seeded()) - 1)),
        ("gaussian", lambda x: (0.05 * torch.randn(x.shape, generator=seeded())).clamp(-0.1, 0.1)),
    ],
)
@pytest.mark.parametrize(("name", "steps", "size"), [("ifgsm7", 7, 0.025), ("ifgsm5", 5, 0.05), ("ifgsm1", 1, 0.25)])
def test_ifgsm_is_the_plain_inner_loop_of_algorithm_1(
    start: str, noise: Callable[[Tensor], Tensor], name: str, steps: int, size: float
) -> None:
    model, (x, y) = trained(members=2), images(32)
    expected = (x + noise(x)).clamp(0, 1)
    for _ in range(steps):
        expected = expected + size * gradient(model, expected, y).sign()
        expected = expected.clamp(x - 0.1, x + 0.1).clamp(0, 1)
    found = perturb(name, model.train(), x, y, THREAT, generator=seeded(), start=start)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    THREAT.check(found, x)


def test_nfgsm_is_one_step_from_noise_twice_the_ball() -> None:
    model, (x, y) = trained(), images(32)
    noisy = (x + 0.2 * (2 * torch.rand(x.shape, generator=seeded()) - 1)).clamp(0, 1)
    expected = (noisy + 0.1 * gradient(model, noisy, y).sign()).clamp(0, 1)
    found = perturb("nfgsm", model, x, y, THREAT, generator=seeded())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert THREAT.distance(found, x).max() > THREAT.eps  # not clipped to the ball, on purpose


def test_the_attack_sees_the_whole_ensemble() -> None:
    """Its direction is that of the gradient of −log of the mean probability."""
    model, (x, y) = trained(members=2).double(), images(16)
    x = x.double().requires_grad_()
    probs = torch.stack([member(x).softmax(dim=1) for member in model.members]).mean(dim=0)
    (grad,) = torch.autograd.grad(-probs.gather(1, y[:, None]).log().sum(), x)
    found = perturb("ifgsm1", model, x.detach(), y, THREAT, generator=seeded(), start="none")
    clear = grad.abs() > 1e-12
    expected = (x + 0.1 * grad.sign()).clamp(0, 1)
    torch.testing.assert_close(found[clear], expected[clear].detach())


@pytest.mark.parametrize("name", ["ifgsm7", "nfgsm"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_before(name: str, fails: bool) -> None:
    model, (x, y) = trained().train(), images(16)
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i != 2)
        p.grad = torch.full_like(p, float(i))
    grads = [p.grad for p in model.parameters()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        assert not model.training
        if fails:
            raise RuntimeError("boom")
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    try:
        perturb(name, model, x, y, THREAT, generator=seeded(), loss=loss)
    except RuntimeError:
        assert fails
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [i != 2 for i in range(len(grads))]
    assert all(p.grad is g and (g == i).all() for i, (p, g) in enumerate(zip(model.parameters(), grads, strict=True)))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # batch norm's statistics among them
    assert torch.equal(torch.get_rng_state(), rng)


def test_noise_comes_from_the_generator() -> None:
    model, (x, y) = trained(), images(8)
    one = perturb("ifgsm7", model, x, y, THREAT, generator=seeded(1))
    assert torch.equal(perturb("ifgsm7", model, x, y, THREAT, generator=seeded(1)), one)
    assert not torch.equal(perturb("ifgsm7", model, x, y, THREAT, generator=seeded(2)), one)


@pytest.mark.parametrize("name", ["ifgsm7", "nfgsm"])
def test_bf16_gives_nearly_the_same_images(name: str) -> None:
    model, (x, y) = trained(), images(64)
    exact = perturb(name, model, x, y, THREAT, generator=seeded(), start="none")
    found = perturb(name, model, x, y, THREAT, generator=seeded(), start="none", precision="bf16")
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.02


@pytest.mark.parametrize("members", [False, True], ids=["ensemble", "each member"])
def test_folding_gives_nearly_the_same_images(members: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folds: list[nn.Module] = []
    monkeypatch.setattr("ensemble_bench.training.attack.folded", lambda m: folds.append(folded(m)) or folds[-1])
    model, (x, y) = trained(members=2).train(), images(64)
    attack = perturb_members if members else perturb
    exact, found = (attack("ifgsm2", model, x, y, THREAT, generator=seeded(), fold=fold) for fold in (False, True))
    assert len(folds) == (2 if members else 1)
    assert not any(isinstance(module, nn.BatchNorm2d) for twin in folds for module in twin.modules())
    # The sign of a derivative that is all but 0 may be rounded either way.
    assert (found == exact).double().mean() > 0.98
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["nfgsm", "ifgsm7", "ifgsm3"])
def test_names(name: str) -> None:
    assert check_name(name) == name


def test_a_training_attack_says_its_steps() -> None:
    assert [steps_of(name) for name in ("nfgsm", "ifgsm7", "ifgsm1")] == [1, 7, 1]


@pytest.mark.parametrize("name", ["pgd20", "ifgsm", "nfgsm5", "ifgsm0", "igfsm7", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown training attack"):
        check_name(name)
    x, y = images(2)
    with pytest.raises(UnknownNameError):
        perturb(name, trained(), x, y, THREAT, generator=seeded())


def test_unknown_start() -> None:
    x, y = images(2)
    with pytest.raises(InvalidValueError, match="start is 'zero': choose from gaussian, uniform, none"):
        perturb("ifgsm7", trained(), x, y, THREAT, generator=seeded(), start="zero")


def test_members_are_attacked_each_on_its_own() -> None:
    model, (x, y) = trained(members=2), images(16)
    noise = seeded()
    expected = [perturb("ifgsm7", member, x, y, THREAT, generator=noise) for member in model.members]
    found = perturb_members("ifgsm7", model.train(), x, y, THREAT, generator=seeded())
    torch.testing.assert_close(found, torch.stack(expected))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(("name", "start"), [("nfgsm", "uniform"), ("ifgsm2", "gaussian"), ("ifgsm2", "uniform")])
def test_blocks_of_a_batch_get_the_noise_of_the_whole(name: str, start: str) -> None:
    model, (x, y) = trained(members=2).double(), images(12)
    x = x.double()
    whole = perturb_members(name, model, x, y, THREAT, generator=seeded(), start=start)
    parts = [
        perturb_members(name, model, x.chunk(3)[i], y.chunk(3)[i], THREAT, generator=seeded(), start=start, part=(i, 3))
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
