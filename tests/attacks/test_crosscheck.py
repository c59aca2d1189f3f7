"""One attack run by three implementations: the same settings, and on models with a closed form the same images."""

import functools
import itertools
import json
import sys
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from chance import CONFIDENCE, power, weaker
from small_models import Linear, Wrapped, images, searched, trained
from torch import Tensor, nn
from torch.nn import functional as F
from valley import valley

from ensemble_bench import ThreatModel, attacks, losses
from ensemble_bench.attacks.foreign.crosscheck import Counterpart, MarginView
from ensemble_bench.attacks.pgd import PGD
from ensemble_bench.errors import AttackError, EnsembleBenchError
from ensemble_bench.registry import IMPLEMENTATIONS

LINF, L2 = ThreatModel(eps=0.1), ThreatModel(norm="l2", eps=0.5)
each_threat = pytest.mark.parametrize("threat", [LINF, L2], ids=lambda t: t.norm)
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
toolkits = pytest.mark.parametrize("toolkit", ["torchattacks", "art"])


def correct(model: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """Digits that the model gets right."""
    x, y = images(n)
    right = model(x).argmax(dim=1) == y
    return x[right], y[right]


# What is run


@each_implementation
@each_threat
@pytest.mark.parametrize("family", ["bim", "ifgsm", "apgd", "margin"])
def test_on_linear_models_all_break_what_can_be_broken(family: str, threat: ThreatModel, implementation: str) -> None:
    """The ball reaches eps times the dual norm of w_1 − w_0 along the gap of the two logits, and no further."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 64, generator=generator) / 8
    model = Linear(weight, -weight.sum(dim=1) / 2)
    x = 0.5 + 0.1 * torch.randn(80, 1, 8, 8, generator=generator)  # the ball stays inside the box
    y, threat = model(x).argmax(dim=1), ThreatModel(norm=threat.norm, eps=threat.eps / 5)
    direction = weight[1 - y] - weight[y]
    reach = threat.eps * torch.linalg.vector_norm(direction, ord=1 if threat.norm == "linf" else 2, dim=1)
    slack = reach + losses.margin(model(x), y).detach()
    outcome = attacks.get(f"{family}20@{implementation}").run(model, x, y, threat)
    clear = slack.abs() > (0.001 if threat.norm == "linf" else 0.01)  # 20 l2 steps have not quite turned round
    assert 10 < (slack[clear] > 0).sum() < clear.sum() - 10
    assert torch.equal(outcome.broken[clear], (slack > 0)[clear])
    if family != "apgd":  # which may stop at any misclassified image
        step = direction.sign() if threat.norm == "linf" else F.normalize(direction)
        furthest = x + threat.eps * step.view_as(x)
        torch.testing.assert_close(outcome.x_adv, furthest, rtol=0, atol=1e-6 if threat.norm == "linf" else 0.01)


@toolkits
@each_threat
def test_without_noise_all_take_the_same_steps(threat: ThreatModel, toolkit: str) -> None:
    model = trained(members=2)
    x, y = correct(model, 60)
    ours = attacks.get("bim20@engine").run(model, x, y, threat)
    theirs = attacks.get(f"bim20@{toolkit}").run(model, x, y, threat)
    # Under l2 ART enters the box before the ball, and we the ball before the box.
    same = {"rtol": 0.0, "atol": 1e-6 if (threat.norm, toolkit) != ("l2", "art") else 0.05}
    torch.testing.assert_close(theirs.x_adv, ours.x_adv, **same)
    assert abs(int(theirs.broken.sum()) - int(ours.broken.sum())) <= 1
    assert 5 < ours.broken.sum() < 30
    assert (ours.x_adv != x).flatten(1).any(dim=1).all()  # broken or not, every image takes its steps
    assert (ours.steps == theirs.steps).all()


def test_the_engine_keeps_to_the_toolkits_conventions() -> None:
    for name in ("bim20", "ifgsm20", "margin20"):
        made = attacks.get(f"{name}@engine")
        assert isinstance(made, PGD)
        assert (made.name, made.stop_early, made.keep) == (f"{name}@engine", False, "last")
        assert (made.steps, made.step_size, made.restarts) == (20, 0.125, 1)
        assert made.random_start == (name != "bim20")
    ours = {**attacks.get("apgd20").settings(), "name": "apgd20@engine"}
    assert attacks.get("apgd20@engine").settings() == ours


@each_threat
@pytest.mark.parametrize("attack", ["ifgsm20", "apgd20"])
def test_the_toolkits_are_called_as_a_user_would(attack: str, threat: ThreatModel) -> None:
    import torchattacks
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent

    from ensemble_bench.adapters.art import classifier

    model = trained()
    x, y = correct(model, 40)
    eps, l2 = threat.eps, threat.norm == "l2"

    def theirs(name: str) -> Tensor:
        made = attacks.get(name)
        assert isinstance(made, Counterpart)
        return made.run(model, x, y, threat, seed=5).x_adv

    def seeded(name: str) -> int:
        made = attacks.get(name)
        assert isinstance(made, Counterpart)
        return made.under(threat).seed_of(5, 0)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(f"{attack}@torchattacks"))
        if attack == "apgd20":
            seed = seeded(f"{attack}@torchattacks")
            made = torchattacks.APGD(model, norm="L2" if l2 else "Linf", eps=eps, steps=20, seed=seed)
        else:
            made = (torchattacks.PGDL2 if l2 else torchattacks.PGD)(model, eps=eps, alpha=eps / 8, steps=20)
        direct = made(x, y)
    torch.testing.assert_close(theirs(f"{attack}@torchattacks"), direct, rtol=0, atol=1e-5)

    state = np.random.get_state()
    try:
        np.random.seed(seeded(f"{attack}@art"))
        shared = {"norm": 2 if l2 else np.inf, "eps": eps, "max_iter": 20, "batch_size": 64, "verbose": False}
        estimator = classifier(model, input_shape=(1, 8, 8), nb_classes=10)
        if attack == "apgd20":
            made = AutoProjectedGradientDescent(estimator, eps_step=2 * eps, nb_random_init=1, **shared)
        else:
            made = ProjectedGradientDescent(estimator, eps_step=eps / 8, num_random_init=1, **shared)
        direct = torch.from_numpy(made.generate(x.numpy(), y.numpy()))
    finally:
        np.random.set_state(state)
    torch.testing.assert_close(theirs(f"{attack}@art"), direct, rtol=0, atol=1e-5)


@each_implementation
def test_noise_comes_from_the_seed_alone(implementation: str) -> None:
    model = trained()
    x, y = correct(model, 16)
    for name, noisy in (("bim3", False), ("ifgsm3", True), ("margin3", True)):
        attack = attacks.get(f"{name}@{implementation}")
        first = attack(model, x, y, LINF, seed=1)
        torch.rand(1)
        assert torch.equal(attack(model, x, y, LINF, seed=1), first)
        assert torch.equal(attack(model, x, y, LINF, seed=2), first) != noisy


@toolkits
def test_colour_images_in_a_channels_last_model(toolkit: str) -> None:
    """PGDL2 flattens gradients with `view`, which takes them row-major only."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 4))
    x = torch.rand(6, 3, 8, 8)
    y = model(x).argmax(dim=1)
    ours = attacks.get("bim5@engine").run(model, x, y, L2)
    theirs = attacks.get(f"bim5@{toolkit}").run(model, x, y, L2)
    torch.testing.assert_close(theirs.x_adv, ours.x_adv, rtol=0, atol=0.05)


# The margin by way of the cross-entropy


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of what toolkits ascend, the mean cross-entropy, as rows."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return len(x) * grad.flatten(1)


def test_the_view_has_the_gradient_of_the_margin_and_the_predictions_of_the_model() -> None:
    model = trained(members=2).double()
    x, y = images(60)
    x, y = x.double(), torch.where(torch.arange(60) % 3 == 0, (y + 1) % 10, y)  # some are misclassified
    view = MarginView(model, y)
    assert torch.equal(view(x).argmax(dim=1), model(x).argmax(dim=1))
    at = x.clone().requires_grad_()
    margin = losses.margin(model(at), y)
    (expected,) = torch.autograd.grad(margin.sum(), at)
    factor = torch.where(margin > 0, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)))
    assert 10 < (margin > 0).sum() < 50
    torch.testing.assert_close(gradients(view, x, y), factor.detach()[:, None] * expected.flatten(1))


def test_where_the_model_is_certain_the_margin_still_moves_all_three() -> None:
    certain = Wrapped(trained(), lambda logits, _: 1000 * logits).eval()
    x, y = correct(certain, 100)
    flat = (gradients(certain, x, y) == 0).all(dim=1)
    assert flat.sum() > 80
    assert (gradients(MarginView(certain, y), x, y) != 0).any(dim=1).all()
    for implementation in IMPLEMENTATIONS:
        assert attacks.get(f"margin20@{implementation}").run(certain, x, y, LINF).broken.any()


def test_the_view_refuses_a_batch_whose_labels_it_does_not_know() -> None:
    x, y = images(6)
    with pytest.raises(AttackError, match="shows the model 4 of 6 images: their labels are not known"):
        MarginView(trained(), y)(x[:4])


# By chance: fixed steps that start at random


@functools.lru_cache
def left_by(attack: str, scale: float) -> Tensor:
    """Which of 600 images of a valley, its logits scaled, the attack leaves standing."""
    hole, x, y, threat = valley("linf", 600, depth=0.62)  # in which 20 fixed steps end from about half of the images
    model = Wrapped(hole, lambda logits, _: scale * logits).eval()
    return ~searched(attacks.get(attack), model, x, y, threat, batch_size=600).broken


# At scale 1000 the softmax is saturated: only the margin's view is still climbed.
each_family = pytest.mark.parametrize(("family", "scale"), [("ifgsm", 1.0), ("margin", 1000.0)])
# Two families, three implementations, each beside both of the others.
COMPARISONS = 12


@each_family
def test_no_implementation_is_weaker_than_another(family: str, scale: float) -> None:
    """All comparisons together raise a false alarm at most once in 10⁶."""
    for one, other in itertools.permutations(IMPLEMENTATIONS, 2):
        first, second = (left_by(f"{family}20@{i}", scale) for i in (one, other))
        assert 0.25 < second.double().mean() < 0.75
        assert not weaker(first, second, comparisons=COMPARISONS), f"{one} finds less than {other}"


@each_family
@each_implementation
def test_half_the_steps_fail_that_comparison(family: str, scale: float, implementation: str) -> None:
    """The comparison's power: the planted fault would be found on other images at least 999 times in 1,000."""
    planted = left_by(f"{family}10@{implementation}", scale)
    for other in IMPLEMENTATIONS:
        assert weaker(planted, left_by(f"{family}20@{other}", scale), comparisons=COMPARISONS)
        assert power(planted, left_by(f"{family}20@{other}", scale), comparisons=COMPARISONS) > CONFIDENCE


@each_implementation
def test_without_the_view_a_certain_model_fails_that_comparison(implementation: str) -> None:
    blind = left_by(f"ifgsm20@{implementation}", 1000.0)
    assert weaker(blind, left_by("margin20@engine", 1000.0), comparisons=COMPARISONS)
    assert power(blind, left_by("margin20@engine", 1000.0), comparisons=COMPARISONS) > CONFIDENCE


# Names and settings


@toolkits
@pytest.mark.parametrize("attack", ["bim7", "ifgsm7", "apgd30", "margin20"])
def test_settings_say_what_is_run(attack: str, toolkit: str) -> None:
    made = attacks.get(f"{attack}@{toolkit}")
    assert isinstance(made, Counterpart)
    settings = json.loads(json.dumps(made.settings()))
    size = {"bim7": 2.5 / 7, "ifgsm7": 0.25, "apgd30": 2.0, "margin20": 0.125}[attack]
    assert (settings["name"], settings["toolkit"]) == (f"{attack}@{toolkit}", toolkit)
    assert settings["steps"] == made.under(L2).steps == int("".join(filter(str.isdigit, attack)))
    assert settings["step_size"] == pytest.approx(size)
    for threat in (LINF, L2):
        run = made.under(threat)
        said = settings[threat.norm]
        assert run.attack == said["attack"]
        assert said["arguments"].items() <= run.arguments.items()
        added = {v for k, v in run.arguments.items() if k not in said["arguments"]}
        sizes: Iterable[float] = [] if run.attack == "APGD" else [made.step_size * threat.eps]
        assert added == {settings["steps"], *sizes}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mora20@art", "unknown attack to cross-check 'mora20'"),
        ("blackbox@art", "unknown attack to cross-check 'blackbox'"),
        ("ifgsm@art", "unknown attack 'ifgsm'"),
        ("ifgsm20@", "unknown implementation ''"),
        ("ifgsm20@foolbox", "unknown implementation 'foolbox'"),
    ],
)
def test_names_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(EnsembleBenchError, match=message) as caught:
        attacks.get(name)
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(EnsembleBenchError, match=r"ifgsm20@art: .* random_start cannot be set"):
        attacks.get("ifgsm20@art", random_start=False)


def test_a_toolkit_that_is_missing_is_an_error_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(EnsembleBenchError, match=r"^ifgsm20@torchattacks needs a library that cannot be imported"):
        attacks.get("ifgsm20@torchattacks")
    assert attacks.get("ifgsm20@engine")
