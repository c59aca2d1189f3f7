"""The engine: verdicts that no batch size or order can change, nothing spent on broken images, nothing left changed."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from small_models import Linear, Wrapped, images, linear_images, recorded, searched, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel, attacks, randomness
from ensemble_bench.attacks.engine import Budget, GradientAttack, Task
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.models import calling
from ensemble_bench.models.folded import twin_of

GRADIENT = (
    "ifgsm5",
    "pgd8",
    "margin8",
    "margin-odi6",
    "pma8",
    "reacg10",
    "apgd10",
    "apgd-dlr10",
    "bypass8",
    "mean-member6",
    "random-member6",
)
CHAINS = ("member-transfer4", "mora1", "malt2")
ATTACKS = (*GRADIENT, *CHAINS, "arc3")
THREATS = (ThreatModel(eps=0.1), ThreatModel(norm="l2", eps=0.5))
# On a linear model no rounding tips a verdict, as batches of other sizes would on one that is trained.
LINEAR = ThreatModel(eps=0.02)
each_attack = pytest.mark.parametrize("name", ATTACKS)
each_gradient_attack = pytest.mark.parametrize("name", GRADIENT)


def get(name: str, **settings: object) -> attacks.Attack:
    """The attack, with those of the settings that it has: ARC has no restarts, and always stops early."""
    return attacks.get(name, **({} if name.startswith("arc") else settings))


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def snapshot(model: nn.Module) -> list[object]:
    """Everything of a model that an attack could change."""
    return [
        [(name, m.training) for name, m in model.named_modules()],
        [(name, p.requires_grad, p.grad is None, id(p.grad), p._version) for name, p in model.named_parameters()],
        [(name, v.clone().tolist()) for name, v in model.state_dict().items()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        torch.get_rng_state().tolist(),
    ]


# Results do not depend on batch size, order or company


@each_attack
@pytest.mark.parametrize("threat", [LINEAR, ThreatModel(norm="l2", eps=0.08)], ids=lambda t: t.norm)
def test_batch_size_changes_nothing(name: str, threat: ThreatModel) -> None:
    model, x, y, _ = linear_images(threat)
    base, *others = (attacks.get(name).run(model, x, y, threat, batch_size=b) for b in (64, 7, 1))
    assert 0 < base.broken.sum() < 32
    for other in others:
        assert torch.equal(other.broken, base.broken)
        assert torch.equal(other.steps, base.steps)
        torch.testing.assert_close(other.margin, base.margin, rtol=0, atol=1e-3)


@each_attack
def test_permuting_images_permutes_results(name: str) -> None:
    model, x, y, _ = linear_images(LINEAR)
    ids = torch.arange(100, 132)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    attack = get(name, restarts=2)
    base = attack.run(model, x, y, LINEAR, ids=ids, batch_size=16)
    other = attack.run(model, x[order], y[order], LINEAR, ids=ids[order], batch_size=16)
    assert torch.equal(other.broken, base.broken[order])
    assert torch.equal(other.steps, base.steps[order])
    torch.testing.assert_close(other.x_adv, base.x_adv[order], rtol=0, atol=1e-4)


def test_the_start_depends_on_seed_and_id() -> None:
    model, (x, y), threat = trained(), images(10), ThreatModel(eps=0.01)
    attack = attacks.get("ifgsm1")
    base = attack(model, x, y, threat, seed=1)
    assert torch.equal(attack(model, x, y, threat, seed=1, ids=torch.arange(10)), base)
    assert not torch.equal(attack(model, x, y, threat, seed=2), base)
    assert not torch.equal(attack(model, x, y, threat, seed=1, ids=torch.arange(10) + 1), base)


@pytest.mark.parametrize("name", [*GRADIENT, *CHAINS])
def test_restarts_never_raise_robust_accuracy(name: str) -> None:
    model, (x, y), threat = trained(), images(60), ThreatModel(eps=0.08)
    one, three = (attacks.get(name, restarts=r).run(model, x, y, threat, batch_size=32) for r in (1, 3))
    assert not (one.broken & ~three.broken).any()
    # A chain may break with an earlier stage what it broke with a later one, and further.
    comparable = ~three.broken | (name in GRADIENT)
    assert (three.margin >= one.margin - 1e-6)[comparable].all()


def test_the_start_is_the_noise_of_seed_attack_restart_and_id() -> None:
    model, (x, y), threat, ids = trained(), images(6), ThreatModel(eps=0.1), torch.arange(40, 46)
    for name, seed in (("one", 0), ("one", 3), ("another", 3)):
        still = PGD(name=name, steps=1, step_size=0.0, stop_early=False)
        noise = randomness.uniform((1, 8, 8), ids, seed=seed, stream=name, restart=0)
        torch.testing.assert_close(still(model, x, y, threat, seed=seed, ids=ids), threat.random_start(x, noise))


def test_random_global_state_does_not_matter() -> None:
    model, (x, y), threat = trained(), images(20), ThreatModel(eps=0.1)
    torch.manual_seed(1)
    first = attacks.get("pgd5")(model, x, y, threat)
    torch.manual_seed(2)
    assert torch.equal(attacks.get("pgd5")(model, x, y, threat), first)


# The model decides, whatever proposes


@pytest.mark.parametrize("name", ["ifgsm5", "margin8", "apgd10", "arc3", "mora1"])
def test_the_model_decides_on_what_another_proposes(name: str) -> None:
    model, (x, y), threat = trained(), images(40), ThreatModel(eps=0.1)
    liar = Wrapped(trained(), lambda logits, _: logits - 100 * nn.functional.one_hot(logits.argmax(dim=1), 10))
    task = Task(model=model, x=x, y=y, threat=threat, ids=torch.arange(40), budget=Budget(), on_done=None, twin=liar)
    outcome = attacks.get(name).search(task)
    assert torch.equal(outcome.broken, predictions(model, outcome.x_adv) != y)
    # The liar calls every image broken at once.
    assert not outcome.broken.all()


def test_the_twin_points_where_the_model_does() -> None:
    model, (x, y), threat = trained(members=2), images(60), ThreatModel(eps=0.08)
    twin = twin_of(model, x)
    assert twin.folded
    task = Task(model=model, x=x, y=y, threat=threat, ids=torch.arange(60), budget=Budget(), on_done=None)
    step = attacks.get("ifgsm1", random_start=False, stop_early=False)
    alone, both = step.search(task), step.search(replace(task, twin=twin.model))
    # The sign of a derivative that is all but 0 may be rounded either way.
    assert (both.x_adv == alone.x_adv).double().mean() > 0.99


# What comes back


@each_attack
@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.norm)
def test_broken_means_misclassified_inside_the_ball(name: str, stop_early: bool, threat: ThreatModel) -> None:
    model, (x, y) = trained(), images(60)
    outcome = get(name, stop_early=stop_early).run(model, x, y, threat, batch_size=16)
    threat.check(outcome.x_adv, x)
    assert torch.equal(outcome.broken, predictions(model, outcome.x_adv) != y)
    assert torch.equal(outcome.margin > 0, outcome.broken)
    assert 0 < outcome.broken.sum() < 60


def test_misclassified_images_are_not_touched() -> None:
    model, (x, y), threat = trained(), images(200), ThreatModel(eps=0.1)
    wrong = predictions(model, x) != y
    assert wrong.any()
    outcome = attacks.get("pgd5").run(model, x, y, threat)
    assert torch.equal(outcome.x_adv[wrong], x[wrong])
    assert outcome.broken[wrong].all()
    assert not outcome.steps[wrong].any()


@each_gradient_attack
def test_without_stopping_every_image_takes_every_step(name: str) -> None:
    model, (x, y), threat = trained(), images(60), ThreatModel(eps=0.1)
    attack = attacks.get(name, stop_early=False)
    assert isinstance(attack, GradientAttack)
    with recorded(model.members[0]) as calls:
        outcome = searched(attack, model, x, y, threat, batch_size=20)
    assert (outcome.steps == attack.steps).all()
    assert (outcome.x_adv != x).flatten(1).any(dim=1).all()
    assert sum(n for n, gradient in calls if gradient) == 60 * attack.steps


def test_stopping_early_steps_are_the_first_broken_iterate() -> None:
    """Against a plain loop that asks the model after every step."""
    model, x, y, _ = linear_images(LINEAR)
    outcome = attacks.get("ifgsm5", random_start=False).run(model, x, y, LINEAR, batch_size=9)
    x_adv, first = x.clone(), torch.full((32,), -1)
    for step in range(6):
        first[(predictions(model, x_adv) != y) & (first < 0)] = step
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
        x_adv = (x_adv.detach() + LINEAR.eps / 2 * grad.sign()).clamp(x - LINEAR.eps, x + LINEAR.eps).clamp(0, 1)
    assert torch.equal(outcome.broken, first >= 0)
    assert set(first.tolist()) == {-1, 1, 2}
    assert torch.equal(outcome.steps, torch.where(first < 0, 5, first))


@dataclass(frozen=True, kw_only=True)
class Walk(PGD):
    """Stands further from every image by so much after each step."""

    offsets: tuple[float, ...]

    def step(self, s: dict[str, Tensor], value: Tensor, grad: Tensor, threat: ThreatModel) -> None:
        s["x_adv"] = s["x"] + torch.tensor(self.offsets)[s["i"]].view(-1, 1)


@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize(
    ("keep", "offsets", "expected"),
    [
        ("last", (0.02, 0.08, 0.03), 0.03),
        ("best", (0.02, 0.08, 0.03), 0.08),
        ("best", (0.02, 0.03, 0.08), 0.08),
        ("best", (-0.02, -0.03, -0.08), 0.0),
        ("last", (-0.02, -0.03, -0.08), -0.08),  # less far than the clean image
    ],
)
def test_an_unbroken_image_comes_back_at_the_last_iterate_or_the_best(
    keep: str, offsets: tuple[float, ...], expected: float, stop_early: bool
) -> None:
    """The brighter the pixels, the larger the loss, and none is bright enough to break an image."""
    model = Linear(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([5.0, 0.0]))
    x, y = torch.tensor([[0.4, 0.5], [0.5, 0.6], [0.3, 0.2]]), torch.zeros(3, dtype=torch.int64)
    settings = {"keep": keep, "stop_early": stop_early, "random_start": False, "step_size": 1.0}
    attack = Walk(name="walk", steps=3, offsets=offsets, **settings)  # type: ignore[arg-type]
    outcome = attack.run(model, x, y, ThreatModel(eps=0.1), batch_size=2)
    torch.testing.assert_close(outcome.x_adv, x + expected)
    torch.testing.assert_close(outcome.margin, (x + expected).sum(dim=1) - 5)
    assert (outcome.steps == 3).all()


# Nothing is spent in vain


@pytest.mark.parametrize("batch_size", [1, 10, 64])
def test_only_survivors_take_gradients_in_full_batches(batch_size: int) -> None:
    model, (x, y) = trained(), images(120)
    with recorded(model) as calls:
        outcome = searched(attacks.get("pgd20"), model, x, y, ThreatModel(eps=0.3), batch_size=batch_size)
    assert outcome.broken.double().mean() > 0.95  # an easy model
    gradients = [n for n, gradient in calls if gradient]
    # A broken image takes one gradient an iterate up to the broken one, the others one a step.
    right = predictions(model, x) == y
    expected = (outcome.steps + 1).clamp(max=20)[right].sum()
    assert sum(gradients) == expected
    assert sum(gradients) < 120 * 20 / 3
    assert max(n for n, _ in calls) <= batch_size
    # Full until the last image has its slot; then the batch only shrinks.
    tail = next((i for i, n in enumerate(gradients) if n < batch_size), len(gradients))
    assert sum(gradients[:tail]) > 0.5 * sum(gradients) or batch_size == 64
    assert gradients[tail:] == sorted(gradients[tail:], reverse=True)
    assert outcome.passes == sum(n * (2 if gradient else 1) for n, gradient in calls)


def test_on_done_counts_up_to_all_images() -> None:
    model, (x, y), heard = trained(), images(50), []

    def on_done(done: int, broken: int) -> None:
        heard.append((done, broken))

    attack, right = attacks.get("pgd5"), predictions(model, x) == y
    outcome = attack.run(model, x, y, ThreatModel(eps=0.1), batch_size=8, on_done=on_done)
    assert heard == sorted(heard)
    assert all(broken <= done for done, broken in heard)
    assert heard[-1][0] == right.sum()
    # The last images are judged after the last step, when their slots are free already.
    assert 0 < heard[-1][1] <= (outcome.broken & right).sum()


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


# Models and attacks that break the rules


class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * math.nan


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


# Reduced precision


@each_attack
def test_bf16_only_proposes(name: str) -> None:
    model, (x, y), threat = trained(), images(100), ThreatModel(eps=0.1)
    outcome = attacks.get(name).run(model, x, y, threat, precision="bf16", batch_size=32)
    threat.check(outcome.x_adv, x)
    assert outcome.x_adv.dtype == torch.float32
    assert torch.equal(outcome.broken, predictions(model, outcome.x_adv) != y)


@each_attack
@pytest.mark.parametrize("precision", ["bf16", "float32", "float64"])
def test_in_every_precision_a_linear_model_breaks_within_its_closed_form_radius(name: str, precision: str) -> None:
    model, x, y, radius = linear_images(LINEAR)
    if precision == "float64":
        model, x = model.double(), x.double()
    outcome = attacks.get(name).run(model, x, y, LINEAR, precision="bf16" if precision == "bf16" else "float32")
    assert outcome.broken[radius < 0.8].all()
    assert not outcome.broken[radius > 1].any()


def test_a_proposal_that_does_not_hold_in_float32_does_not_count() -> None:
    """A model that is wrong under autocast only: everything looks broken, nothing is."""
    model, (x, y), threat = trained(), images(30), ThreatModel(eps=1e-4)

    def wrong_in_bf16(logits: Tensor, batch: Tensor) -> Tensor:
        searched_in.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return -logits if torch.is_autocast_enabled("cpu") else logits

    searched_in: set[tuple[bool, bool]] = set()
    outcome = attacks.get("pgd5").run(Wrapped(model, wrong_in_bf16), x, y, threat, precision="bf16")
    assert (True, True) in searched_in
    assert (False, True) not in searched_in  # what decides is exact
    assert torch.equal(outcome.broken, predictions(model, x) != y)
