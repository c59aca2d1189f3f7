"""Every adapter must give the gradient of −log p̄_y, and leave the model as it was."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ensemble_bench as eb


def member(seed: int) -> nn.Module:
    """A small network with batch statistics, so that train and eval mode differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 10))


@pytest.fixture
def model() -> eb.Ensemble:
    made = eb.Ensemble([member(0), member(1)])
    with torch.no_grad():
        made.train()(
            torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(2))
        )  # moves the running statistics
    return made.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(6, 1, 8, 8, generator=generator), torch.randint(10, (6,), generator=generator)


def reference_gradient(model: eb.Ensemble, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of −log of the mean softmax, written out in float64 without our Ensemble."""
    members = [module.double().eval() for module in (member(0), member(1))]
    for ours, theirs in zip(members, model.members.children(), strict=True):
        ours.load_state_dict(theirs.state_dict())
    x = x.double().requires_grad_()
    mean = sum(module(x).softmax(1) for module in members) / 2
    loss = -torch.log(mean.gather(1, y[:, None])).sum()
    return torch.autograd.grad(loss, x)[0]


def torchattacks_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    loss = nn.CrossEntropyLoss(reduction="sum")(eb.adapters.torchattacks.module(model)(x), y)
    return torch.autograd.grad(loss, x)[0]


GRADIENTS = pytest.mark.parametrize("gradient", [torchattacks_gradient])


@GRADIENTS
def test_gradient_is_that_of_minus_log_mean_probability(
    gradient: Callable[..., Tensor], model: eb.Ensemble, batch: tuple[Tensor, Tensor]
) -> None:
    torch.testing.assert_close(
        gradient(model, *batch).double(), reference_gradient(model, *batch), rtol=1e-4, atol=1e-7
    )


@GRADIENTS
@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_as_found(
    gradient: Callable[..., Tensor], training: bool, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    model.train(training)
    torch.autograd.backward(nn.functional.cross_entropy(model(batch[0]), batch[1]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    gradient(model, *batch)
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert grads
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(old, new) for old, new in zip(grads, after, strict=True))


def test_view_stays_in_eval_mode_and_restores_after_an_exception(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    view = eb.adapters.torchattacks.module(model).train()
    assert not view.training
    model.train()
    with pytest.raises(RuntimeError):
        view(torch.rand(2, 3, 8, 8))
    assert all(module.training for module in model.modules())


def test_torchattacks_runs_and_stays_in_the_ball(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    import torchattacks

    x, y = batch
    x_adv = torchattacks.PGD(eb.adapters.torchattacks.module(model), eps=0.1, alpha=0.02, steps=5)(x, y)
    eb.ThreatModel(norm="linf", eps=0.1).check(x_adv, x)
    loss = nn.CrossEntropyLoss(reduction="none")
    with torch.no_grad():
        assert (loss(model(x_adv), y) > loss(model(x), y)).all()


def test_view_shares_the_weights_and_moves_the_model(model: nn.Module) -> None:
    view = eb.adapters.torchattacks.module(model)
    ours, theirs = dict(view.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    view.to(torch.float64)
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
