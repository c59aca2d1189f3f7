"""The view that toolkits get of a model: its weights, and none of its state."""

import pytest
import torch
from torch import nn

import ensemble_bench as eb
from ensemble_bench.adapters.view import AttackView


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


def test_view_stays_in_eval_mode_and_restores_after_an_exception(model: nn.Module) -> None:
    view = AttackView(model).train()
    assert not view.training
    model.train()
    with pytest.raises(RuntimeError):
        view(torch.rand(2, 3, 8, 8))
    assert all(module.training for module in model.modules())


def test_view_shares_the_weights_and_moves_the_model(model: nn.Module) -> None:
    view = AttackView(model)
    ours, theirs = dict(view.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    view.to(torch.float64)
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
