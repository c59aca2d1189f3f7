"""Attacks of other libraries: they get the standing images only, and nothing that they return is trusted."""

import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Linear, images, recorded, searched, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel, losses
from ensemble_bench.adapters.view import AttackView
from ensemble_bench.attacks.foreign import external
from ensemble_bench.attacks.foreign.external import External, parse
from ensemble_bench.errors import AttackError, InvalidValueError, UnknownNameError

THREAT = ThreatModel(eps=0.1)
Run = Callable[..., Any]


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., External]:
    """Makes an attack "fake:Bad" of a toolkit whose attacks are one function of (model, x, y, **details)."""

    def make(run: Run, **arguments: Any) -> External:
        module = ModuleType("fake_toolkit")

        def attack(name: str, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, given: Any, **d: Any) -> Any:
            # As every adapter does: through the view nothing reaches the model.
            return run(AttackView(model), x, y, name=name, threat=threat, arguments=given, **d)

        vars(module).update(check=lambda name, arguments: 3, attack=attack)
        monkeypatch.setitem(sys.modules, "fake_toolkit", module)
        monkeypatch.setitem(external.TOOLKITS, "fake", "fake_toolkit")  # type: ignore[arg-type]
        return External(name="fake:Bad", toolkit="fake", attack="Bad", arguments=arguments)

    return make


def unchanged(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    return x


def fgsm(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)
    return (x.detach() + 0.1 * grad.sign()).clamp(0, 1)


def noisy(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    """Draws from all three global generators."""
    noise = torch.rand_like(x) + torch.from_numpy(np.random.rand(*x.shape)).to(x) + random.random()
    return (x + 0.1 * (noise / 1.5 - 1)).clamp(0, 1)


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def world(model: nn.Module) -> list[Any]:
    """Everything that an attack could leave changed."""
    return [
        [(name, m.training) for name, m in model.named_modules()],
        [(name, p.requires_grad, id(p.grad), p.tolist()) for name, p in model.named_parameters()],
        [(name, v.tolist()) for name, v in model.named_buffers()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
        torch.is_grad_enabled(),
    ]


def lived_in() -> nn.Module:
    """A model in train mode with gradients on its parameters."""
    model = trained()
    x, y = images(4)
    torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
    next(model.parameters()).requires_grad_(False)
    return model.train()


# What an attack is handed, and what counts


def test_verdicts_margins_and_passes_are_those_of_the_model(toolkit: Callable[..., External]) -> None:
    model, (x, y) = trained(), images(60)
    heard: list[tuple[int, int]] = []
    with recorded(model) as calls:
        outcome = searched(toolkit(fgsm), model, x, y, THREAT, batch_size=16, on_done=lambda *a: heard.append(a))
    correct = predictions(model, x) == y
    expected = x.clone()
    expected[correct] = fgsm(model, x[correct], y[correct])
    torch.testing.assert_close(outcome.x_adv, expected, rtol=0, atol=1e-6)
    assert torch.equal(outcome.broken, predictions(model, outcome.x_adv) != y)
    assert 0 < (outcome.broken & correct).sum() < correct.sum() < 60
    with torch.no_grad():
        torch.testing.assert_close(outcome.margin, losses.margin(model(outcome.x_adv), y), rtol=0, atol=1e-4)
    assert torch.equal(outcome.steps, torch.where(correct, 3, 0))
    standing = int(correct.sum())
    assert outcome.passes == 60 + 3 * standing == sum(n * (1 + gradient) for n, gradient in calls)
    assert len(heard) == -(-standing // 16)
    assert heard[-1] == (60, int(outcome.broken.sum()))
    assert heard == sorted(heard)


def test_only_standing_images_are_handed_over_in_batches(toolkit: Callable[..., External]) -> None:
    model, (x, y) = trained(), images(200)
    shown: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, x: Tensor, y: Tensor, **details: Any) -> Tensor:
        assert x.is_contiguous()
        assert x.dtype == torch.float32
        assert (details["classes"], details["name"], details["arguments"]) == (10, "Bad", {"colour": "red"})
        assert details["threat"] is THREAT
        shown.append((x, y))
        return x

    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    outcome = toolkit(record, colour="red").run(model, strided, y, THREAT, batch_size=50)
    correct = predictions(model, x) == y
    assert 150 < correct.sum() < 200
    assert torch.equal(torch.cat([batch for batch, _ in shown]), x[correct])
    assert torch.equal(torch.cat([labels for _, labels in shown]), y[correct])
    assert [len(labels) for _, labels in shown] == [50, 50, 50, int(correct.sum()) - 150]
    assert torch.equal(outcome.broken, ~correct)
    assert torch.equal(outcome.x_adv, x)


def test_noise_comes_from_seed_and_id_and_from_nowhere_else(toolkit: Callable[..., External]) -> None:
    model, (x, y), attack = trained(), images(12), toolkit(noisy)
    base = attack(model, x, y, THREAT, seed=1, batch_size=6)
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = world(model)
    assert torch.equal(attack(model, x, y, THREAT, seed=1, batch_size=6), base)
    assert world(model) == before
    assert not torch.equal(attack(model, x, y, THREAT, seed=2, batch_size=6), base)
    moved = attack(model, x, y, THREAT, seed=1, batch_size=6, ids=torch.arange(12) + 1)
    assert not torch.equal(moved, base)
    half = attack(model, x[6:], y[6:], THREAT, seed=1, batch_size=6, ids=torch.arange(6, 12))
    assert (predictions(model, x) == y).all()
    assert torch.equal(half, base[6:])


def test_memory_that_runs_out_halves_the_batch(toolkit: Callable[..., External]) -> None:
    model, (x, y) = trained(), images(20)
    sizes: list[int] = []

    def greedy(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("no")
        sizes.append(len(x))
        return fgsm(model, x, y)

    small = toolkit(greedy).run(model, x, y, THREAT, batch_size=12)
    whole = toolkit(fgsm).run(model, x, y, THREAT, batch_size=12)
    assert sum(sizes) == (predictions(model, x) == y).sum()
    torch.testing.assert_close(small.x_adv, whole.x_adv, rtol=0, atol=1e-6)
    assert torch.equal(small.broken, whole.broken)

    def hopeless(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        toolkit(hopeless).run(model, x, y, THREAT)


def test_float64_images_stay_float64(toolkit: Callable[..., External]) -> None:
    model, (x, y) = trained().double(), images(30)
    seen: list[torch.dtype] = []

    def watched(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        seen.extend([x.dtype, model(x).dtype])
        return fgsm(model, x, y)

    outcome = toolkit(watched).run(model, x.double(), y, THREAT)
    assert set(seen) == {torch.float32}
    assert outcome.x_adv.dtype == outcome.margin.dtype == torch.float64
    assert torch.equal(outcome.broken, predictions(model, outcome.x_adv) != y)


def test_gradients_and_a_device_are_there_for_any_model_and_caller(toolkit: Callable[..., External]) -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).sum(dim=1), torch.full((len(x),), 2.0)], dim=1)

    def watched(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        assert next(model.parameters()).device == x.device
        return fgsm(model, x, y)

    x, y = torch.full((3, 4), 0.51), torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        outcome = toolkit(watched).run(Bare(), x, y, THREAT)
    assert outcome.broken.all()


def test_no_images_and_no_standing_images_never_reach_the_toolkit(toolkit: Callable[..., External]) -> None:
    def never(*_: Any, **__: Any) -> Tensor:
        raise AssertionError

    model, (x, y) = trained(), images(20)
    assert len(toolkit(never).run(model, x[:0], y[:0], THREAT).broken) == 0
    wrong = (predictions(model, x) + 1) % 10
    outcome = toolkit(never).run(model, x, wrong, THREAT)
    assert outcome.broken.all()
    assert not outcome.steps.any()


# Bad attacks


def raises(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("boom\n  and more")


def wrecks(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    """Fails in the middle, with generators used up."""
    noisy(model, x, y)
    model.train()
    model(x)
    raise KeyError("lost")


def shows_nan(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    model(x / 0 * 0)
    return x


def writes_into_its_input(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    return x.add_(0.3).clamp_(0, 1)


BAD = {
    "nan": (lambda m, x, y, **_: torch.where(x > 0.5, torch.nan, x), "x_adv holds NaN"),
    "ball": (lambda m, x, y, **_: (x + 0.2).clamp(0, 1), r"leaves the linf ball: distance 0\.2"),
    "box": (lambda m, x, y, **_: x - 0.05, r"leaves the image box \[0, 1\]"),
    "order": (lambda m, x, y, **_: x.roll(1, dims=0), "it returned the images in another order"),
    "shape": (lambda m, x, y, **_: x[..., 1:], r"x_adv has shape \(\d+, 1, 8, 7\)"),
    "rows": (lambda m, x, y, **_: x[1:], r"x_adv has shape \(\d+, 1, 8, 8\), its images have"),
    "none": (lambda m, x, y, **_: None, "it returned a NoneType"),
    "bytes": (lambda m, x, y, **_: (x * 255).byte(), r"it returned torch\.uint8 images"),
    "logits": (lambda m, x, y, **_: m(x), r"x_adv has shape \(\d+, 10\)"),
    "raises": (raises, "RuntimeError: boom and more$"),
    "wrecks": (wrecks, "KeyError: 'lost'"),
    "shows nan": (shows_nan, "it shows the model images with NaN"),
    "in place": (writes_into_its_input, "leaves the linf ball"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_attack_is_an_error_that_names_it_and_leaves_no_trace(
    kind: str, toolkit: Callable[..., External]
) -> None:
    run, message = BAD[kind]
    model, (x, y) = lived_in(), images(20)
    before, pixels = world(model), x.clone()
    with pytest.raises(AttackError, match=f"^fake:Bad: .*{message}") as caught:
        toolkit(run).run(model, x, y, THREAT, batch_size=8)
    assert "\n" not in str(caught.value)
    assert world(model) == before
    assert torch.equal(x, pixels)


def test_the_error_of_the_toolkit_is_the_cause(toolkit: Callable[..., External]) -> None:
    with pytest.raises(AttackError) as caught:
        toolkit(raises).run(trained(), *images(5), THREAT)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_interrupt_passes_and_leaves_no_trace(toolkit: Callable[..., External]) -> None:
    def interrupted(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        noisy(model, x, y)
        raise KeyboardInterrupt

    model, (x, y) = lived_in(), images(20)
    before = world(model)
    with pytest.raises(KeyboardInterrupt):
        toolkit(interrupted).run(model, x, y, THREAT)
    assert world(model) == before


def test_l2_and_an_order_that_is_not_to_blame(toolkit: Callable[..., External]) -> None:
    model, (x, y), threat = trained(), images(20), ThreatModel(norm="l2", eps=0.5)
    with pytest.raises(AttackError, match="another order"):
        toolkit(lambda m, x, y, **_: x.flip(0)).run(model, x, y, threat)
    with pytest.raises(AttackError, match="leaves the l2 ball"):
        toolkit(lambda m, x, y, **_: torch.cat([x[1:2], 1 - x[1:]])).run(model, x, y, threat)


def test_logits_that_are_not_finite_raise_inside_the_attack(toolkit: Callable[..., External]) -> None:
    class Fragile(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / (x.flatten(1).amax(dim=1, keepdim=True) < 0.55)

    model = Fragile(torch.tensor([[1.0, 0], [0, 1]]), torch.zeros(2))
    x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    with pytest.raises(AttackError, match=r"^fake:Bad: the model gave NaN or infinite logits"):
        searched(toolkit(lambda m, x, y, **_: (m(x + 0.1), x)[1]), model, x, y, THREAT)


# Names


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("torchattacks:DIFGSM", "torchattacks:DIFGSM", {}),
        (" torchattacks : DIFGSM ( ) ", "torchattacks:DIFGSM", {}),
        (
            "torchattacks:DIFGSM( steps =20,decay=0.5 )",
            "torchattacks:DIFGSM(steps=20, decay=0.5)",
            {"steps": 20, "decay": 0.5},
        ),
        (
            "torchattacks:PGD(alpha=8/255,steps=5)",
            "torchattacks:PGD(alpha=8/255, steps=5)",
            {"alpha": 8 / 255, "steps": 5},
        ),
        ("torchattacks:PGD(alpha=-1 / 2)", "torchattacks:PGD(alpha=-1/2)", {"alpha": -0.5}),
        ("torchattacks:PGD(alpha=1e-3)", "torchattacks:PGD(alpha=0.001)", {"alpha": 0.001}),
        (
            'torchattacks:Pixle(x_dimensions=(2,10), pixel_mapping="random", update_each_iteration=True)',
            "torchattacks:Pixle(x_dimensions=(2, 10), pixel_mapping='random', update_each_iteration=True)",
            {"x_dimensions": (2, 10), "pixel_mapping": "random", "update_each_iteration": True},
        ),
        ("torchattacks:TIFGSM(kernel_name='a (b), c=\\n')", None, {"kernel_name": "a (b), c=\n"}),
        ("art:SquareAttack(max_iter=50)", "art:SquareAttack(max_iter=50)", {"max_iter": 50}),
    ],
)
def test_names_are_read_and_read_back(text: str, name: str | None, arguments: dict[str, Any]) -> None:
    attack = parse(text)
    assert attack.name == name or name is None
    assert (attack.toolkit, dict(attack.arguments)) == (text.split(":")[0].strip(), arguments)
    assert parse(attack.name) == attack
    assert parse(attack.name).name == attack.name
    assert hash(parse(attack.name)) == hash(attack)
    assert attack != parse("torchattacks:FGSM")


def test_settings_are_plain_data() -> None:
    assert parse("torchattacks:Pixle(x_dimensions=(2, 10), restarts=4)").settings() == {
        "name": "torchattacks:Pixle(x_dimensions=(2, 10), restarts=4)",
        "toolkit": "torchattacks",
        "attack": "Pixle",
        "arguments": {"x_dimensions": [2, 10], "restarts": 4},
        "steps": 10,  # its default of max_iterations
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "torchattacks",
        "torchattacks:PGD(",
        "torchattacks:PGD(steps=)",
        "torchattacks:PGD(steps=5) extra",
        "torchattacks:PGD(steps=5)(steps=6)",
        "torchattacks:PGD(steps=5) or (steps=6)",
        "torchattacks:PGD(5)",
        "torchattacks:PGD(*[5])",
        "torchattacks:PGD(**{'steps': 5})",
        "torchattacks:PGD(steps=5, steps=6)",
        "torchattacks:PGD(steps=__import__('os'))",
        "torchattacks:PGD(steps=2*5)",
        "torchattacks:PGD(alpha=8/0)",
        "torchattacks:PGD(alpha='a'/2)",
        "torchattacks:PGD(alpha=1e999)",
        "torchattacks:PGD(alpha=1j)",
        "torchattacks:PGD(alpha={1, 2})",
        "torchattacks:PGD(alpha=[1e999])",
        "torchattacks:PGD(steps=" + "(" * 300 + "5" + ")" * 300 + ")",
        "torchattacks:PGD(steps='\0')\0",
    ],
)
def test_malformed_names_raise_one_line_that_shows_the_form(text: str) -> None:
    with pytest.raises(
        InvalidValueError, match=r"NAME\(argument=value|literal or a fraction|expected numbers"
    ) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_unknown_toolkits_and_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="unknown toolkit 'torchatacks': did you mean torchattacks"):
        parse("torchatacks:PGD")
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(InvalidValueError, match="torchattacks:PGD needs a library that cannot be imported"):
        parse("torchattacks:PGD")
    monkeypatch.setitem(sys.modules, "pyautoattack.fab_pt", None)
    with pytest.raises(InvalidValueError, match="fab-t100 needs a library that cannot be imported"):
        external.fab_t(100)
