"""Models, attacks and input that break the engine's rules are named; input of any shape and number is fine."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from each_attack import each_attack, get, predictions
from small_models import BadGradient, Linear, Wrapped, images, trained
from torch import Tensor

from ensemble_bench import ThreatModel, attacks
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.errors import AttackError, InvalidValueError

# Models and attacks that break the rules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, x: logits * math.nan, "NaN or infinite logits"),
        (lambda logits, x: logits.index_fill(1, torch.tensor([3]), -math.inf), "NaN or infinite logits"),
        (lambda logits, x: logits * (1 if torch.equal(x, images(12)[0]) else math.nan), "NaN or infinite logits"),
        (lambda logits, x: BadGradient.apply(logits), "gradient holds NaN"),
        (lambda logits, x: logits.detach(), "pgd5: the model has no gradient: it detaches its input"),
        (lambda logits, x: logits[:, 0], r"logits of shape \(16,\) for 16 images"),
        (lambda logits, x: logits[:5], r"logits of shape \(5, 10\) for 16 images"),
    ],
)
def test_models_that_no_verdict_can_rest_on_raise(change: Callable[[Tensor, Tensor], Tensor], message: str) -> None:
    x, y = images(12)
    with pytest.raises(AttackError, match=message):
        attacks.get("pgd5")(Wrapped(trained(), change), x, y, ThreatModel(eps=0.1))


def test_zero_gradients_are_counted() -> None:
    model, (x, y), threat = trained(), images(30), ThreatModel(eps=0.1)
    right = int((predictions(model, x) == y).sum())
    coarse = Wrapped(model, lambda logits, x: model((x * 4).round() / 4))
    assert attacks.get("ifgsm5").run(model, x, y, threat).zero_gradients == 0
    right = int((predictions(coarse, x) == y).sum())
    assert attacks.get("ifgsm5").run(coarse, x, y, threat).zero_gradients == right


@dataclass(frozen=True, kw_only=True)
class Rogue(PGD):
    """Leaves the ball, by a hair."""

    def step(self, s: dict[str, Tensor], value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        s["x_adv"] = (s["x"] + 1.01 * threat.eps * grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("eps", [0.02, 0.3])  # at the end of the search, and at the first broken iterate
@pytest.mark.parametrize("keep", ["last", "best"])
def test_an_attack_that_leaves_the_ball_is_named(eps: float, keep: str) -> None:
    x, y = images(20)
    rogue = Rogue(name="rogue5", steps=5, step_size=1.0, keep=keep)
    with pytest.raises(AttackError, match="rogue5: x_adv leaves the linf ball"):
        rogue(trained(), x, y, ThreatModel(eps=eps))


# Input


@pytest.mark.parametrize("what", ["x", "y", "ids", "threat"])
def test_a_value_of_another_kind_is_named(what: str) -> None:
    x, y = images(4)
    arguments = {"x": x, "y": y, "ids": torch.arange(4), "threat": ThreatModel(), what: "much"}
    with pytest.raises(InvalidValueError, match=f"^{what} is a str: expected (Tensor|ThreatModel)$"):
        attacks.get("pgd5").run(trained(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x": images(4)[0] * 255}, r"images span \[0, 255\]"),
        ({"x": images(4)[0] - 0.1}, r"images span \[-0.1, "),
        ({"x": images(4)[0] * math.nan}, r"images span \[nan, nan\]"),
        ({"x": (images(4)[0] * 255).to(torch.uint8)}, "images have dtype torch.uint8"),
        ({"y": images(4)[1].int()}, "labels have dtype torch.int32"),
        ({"y": images(4)[1].float()}, "labels have dtype torch.float32"),
        ({"y": images(4)[1][:, None]}, r"shape \(4, 1\)"),
        ({"y": torch.tensor([0, 3, 12, 10])}, "labels span 0 to 12: the model has classes 0 to 9"),
        ({"y": torch.tensor([0, 3, -1, 1])}, "labels span -1 to 3: the model has classes 0 to 9"),
        ({"x": torch.rand(4)}, r"images have shape \(4,\): expected an axis of images, and of pixels"),
        ({"y": torch.tensor(1)}, r"labels have shape \(\)"),
        ({"ids": torch.tensor(1)}, r"ids have shape \(\)"),
        ({"seed": -1}, "seed is -1"),
        ({"y": images(3)[1]}, "4 images, 3 labels and 4 ids"),
        ({"ids": torch.arange(5)}, "4 images, 4 labels and 5 ids"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"precision": "fp16"}, "precision is 'fp16': choose from float32, bf16"),
    ],
)
def test_bad_input_is_named(bad: dict[str, object], message: str) -> None:
    x, y = images(4)
    arguments = {"x": x, "y": y, **bad}
    with pytest.raises(InvalidValueError, match=message):
        attacks.get("pgd5")(trained(), threat=ThreatModel(eps=0.1), **arguments)  # type: ignore[arg-type]


@each_attack
@pytest.mark.parametrize("stop_early", [True, False])
def test_no_images_are_fine(name: str, stop_early: bool) -> None:
    x, y = images(4)
    outcome = get(name, stop_early=stop_early).run(trained(), x[:0], y[:0], ThreatModel(eps=0.1))
    assert outcome.x_adv.shape == (0, 1, 8, 8)
    assert len(outcome.broken) == len(outcome.steps) == len(outcome.margin) == 0


@each_attack
def test_double_precision(name: str) -> None:
    model, (x, y), threat = trained().double(), images(30), ThreatModel(eps=0.1)
    outcome = attacks.get(name).run(model, x.double(), y, threat)
    assert outcome.x_adv.dtype == torch.float64
    assert torch.equal(outcome.broken, predictions(model, outcome.x_adv) != y)


@each_attack
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 1, 3)])
def test_inputs_of_any_shape(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Linear(torch.randn(4, 6, generator=generator), torch.zeros(4))
    x = torch.rand(20, 6, generator=generator)
    y = predictions(model, x)
    flat = attacks.get(name).run(model, x, y, ThreatModel(eps=0.05))
    shaped = attacks.get(name).run(model, x.view(20, *shape), y, ThreatModel(eps=0.05))
    assert torch.equal(shaped.broken, flat.broken)
    torch.testing.assert_close(shaped.x_adv.flatten(1), flat.x_adv)
