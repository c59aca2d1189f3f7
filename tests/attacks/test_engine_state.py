"""The engine leaves models as they were, and goes on in smaller batches where memory runs out."""

from collections.abc import Callable

import pytest
import torch
from each_attack import LINEAR, each_attack, get
from small_models import Wrapped, images, linear_images, perceptron, recorded, searched, trained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench import ThreatModel, attacks
from ensemble_bench.evaluation.subject import in_memory
from ensemble_bench.models import calling


def snapshot(model: nn.Module) -> list[object]:
    """Everything of a model that an attack could change."""
    return [
        [(name, m.training) for name, m in model.named_modules()],
        [(name, p.requires_grad, p.grad is None, id(p.grad), p._version) for name, p in model.named_parameters()],
        [(name, v.clone().tolist()) for name, v in model.state_dict().items()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        torch.get_rng_state().tolist(),
    ]


# Nothing is left changed


def messy_model() -> nn.Module:
    """A model whose flags and gradients are all mixed up, and which uses torch's random numbers."""
    model = trained(members=2).train()
    model.members[0].eval()
    next(model.members[1].modules()).training = False
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 3 != 0)
        p.grad = torch.full_like(p, float(i)) if i % 2 else None
    return Wrapped(model, lambda logits, x: logits + 0 * torch.rand(1))


@each_attack
def test_model_state_is_as_before(name: str) -> None:
    model, (x, y) = messy_model(), images(20)
    before, x_before, y_before = snapshot(model), x.clone(), y.clone()
    get(name, restarts=2).run(model, x, y, ThreatModel(eps=0.1), batch_size=8)
    assert snapshot(model) == before
    assert torch.equal(x, x_before)
    assert torch.equal(y, y_before)


@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_model_state_is_as_before_also_after_an_exception(call: int) -> None:
    model, (x, y), calls = messy_model(), images(20), []

    def fail(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt

    before = snapshot(model)
    model.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        attacks.get("pgd20").run(model, x, y, ThreatModel(eps=0.1), batch_size=8)
    assert len(calls) == call
    assert snapshot(model) == before


@pytest.mark.parametrize(
    "change",
    [lambda logits, x: logits, lambda logits, x: logits.softmax(1), lambda logits, x: logits + torch.randn(1)],
    ids=["logits", "probabilities", "noise"],
)
def test_members_that_something_is_put_around_stay_in_train_mode(change: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = eb.Ensemble([Wrapped(perceptron(seed), change) for seed in (0, 1)]).train()
    before, (x, y) = snapshot(model), images(8)
    attacks.get("ifgsm1")(model, x, y, ThreatModel(eps=0.1))
    eb.evaluate(model, dataset="digits", suite="ifgsm1", n=8)
    for view in in_memory(model, eb.data.open_source("digits").split("test").first(8)).views():
        view.load()
    assert snapshot(model) == before


def test_frozen_puts_the_model_in_eval_mode_without_parameter_gradients() -> None:
    model = messy_model()
    with calling.frozen(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())


def test_works_where_the_caller_switched_gradients_off() -> None:
    model, (x, y), threat = trained(), images(20), ThreatModel(eps=0.1)
    expected = attacks.get("pgd5")(model, x, y, threat)
    with torch.no_grad():
        found = attacks.get("pgd5")(model, x, y, threat)
    assert torch.equal(found, expected)
    assert not found.requires_grad


# Memory


class Small(nn.Module):
    """A device that holds `room` images at a time."""

    def __init__(self, model: nn.Module, room: int, *, processor: bool = False) -> None:
        super().__init__()
        self.model, self.room, self.processor = model, room, processor

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            if self.processor:
                torch.empty(2**50, dtype=torch.uint8)
            raise torch.OutOfMemoryError("no room")
        return self.model(x)


@each_attack
def test_out_of_memory_halves_the_batch_and_keeps_the_verdicts(name: str) -> None:
    model, x, y, _ = linear_images(LINEAR)
    expected = attacks.get(name).run(model, x, y, LINEAR, batch_size=64)
    small = Small(model, 8)
    with recorded(model) as calls:
        found = searched(attacks.get(name), small, x, y, LINEAR, batch_size=64)
    assert torch.equal(found.broken, expected.broken)
    assert torch.equal(found.steps, expected.steps)
    assert max(n for n, _ in calls) == 8


def test_the_processors_memory_halves_the_batch_too() -> None:
    model, x, y, _ = linear_images(LINEAR)
    found = searched(attacks.get("pgd5"), Small(model, 8, processor=True), x, y, LINEAR, batch_size=64)
    assert torch.equal(found.broken, attacks.get("pgd5").run(model, x, y, LINEAR).broken)


def test_out_of_memory_with_gradients_alone_halves_too() -> None:
    """The forward passes fit, the gradients do not."""
    model, x, y, _ = linear_images(LINEAR)

    def room(logits: Tensor, batch: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(batch) > 5:
            raise torch.OutOfMemoryError("no room")
        return logits

    found = attacks.get("pgd5").run(Wrapped(model, room), x, y, LINEAR, batch_size=32)
    assert torch.equal(found.broken, attacks.get("pgd5").run(model, x, y, LINEAR).broken)


def test_out_of_memory_for_one_image_raises() -> None:
    x, y = images(4)
    with pytest.raises(torch.OutOfMemoryError):
        attacks.get("pgd5").run(Small(trained(), 0), x, y, ThreatModel(eps=0.1))
