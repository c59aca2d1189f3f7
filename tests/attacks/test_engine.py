"""The engine: verdicts that no batch size, order or precision can change, and nothing spent on broken images."""

from dataclasses import dataclass, replace

import pytest
import torch
from each_attack import CHAINS, GRADIENT, LINEAR, THREATS, each_attack, each_gradient_attack, get, predictions
from small_models import Linear, Wrapped, images, linear_images, recorded, searched, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel, attacks, randomness
from ensemble_bench.attacks.engine import Budget, GradientAttack, Task
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.models.folded import twin_of

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


@pytest.mark.parametrize("name", ["ifgsm5", "pgd5"])
def test_a_proposal_that_does_not_hold_in_float32_does_not_count(name: str) -> None:
    """A model that is wrong under autocast only: everything looks broken, nothing is."""
    model, (x, y), threat = trained(), images(30), ThreatModel(eps=1e-4)

    def wrong_in_bf16(logits: Tensor, batch: Tensor) -> Tensor:
        searched_in.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return -logits if torch.is_autocast_enabled("cpu") else logits

    searched_in: set[tuple[bool, bool]] = set()
    outcome = attacks.get(name).run(Wrapped(model, wrong_in_bf16), x, y, threat, precision="bf16")
    assert {(True, True), (False, False)} <= searched_in  # what proposes, and what decides
    assert torch.equal(outcome.broken, predictions(model, x) != y)
