"""FAB-T, Square and the toolkits' own attacks through the engine, against the libraries called directly."""

import logging
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Linear, Wrapped, images, recorded, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel
from ensemble_bench.adapters import arguments, art, autoattack, torchattacks
from ensemble_bench.attacks.foreign.external import External, fab_t, parse, square
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.models.entry import entered_once

LINF, L2 = ThreatModel(eps=0.1), ThreatModel(norm="l2", eps=0.5)
each_threat = pytest.mark.parametrize("threat", [LINF, L2], ids=lambda t: t.norm)


def mixed(n: int) -> tuple[Tensor, Tensor]:
    """Digits, some with a label that makes the model wrong about them."""
    x, y = images(n)
    y = y.clone()
    y[2::7] = (y[2::7] + 1) % 10
    return x, y


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def theirs_fab(model: nn.Module, threat: ThreatModel, seed: int) -> Any:
    from pyautoattack.fab_pt import FABAttack_PT

    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    return FABAttack_PT(model, norm=norm, n_restarts=1, n_iter=8, eps=threat.eps, seed=seed, targeted=True)


def theirs_square(model: nn.Module, threat: ThreatModel, seed: int) -> Any:
    from pyautoattack.square import SquareAttack

    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    return SquareAttack(model, norm=norm, n_queries=150, eps=threat.eps, seed=seed, resc_schedule=False)


# FAB-T and Square


@each_threat
@pytest.mark.parametrize(
    ("ours", "theirs"), [(fab_t(8), theirs_fab), (square(150), theirs_square)], ids=["fab", "square"]
)
def test_the_library_called_directly_breaks_the_same_images(
    ours: External, theirs: Callable[..., Any], threat: ThreatModel
) -> None:
    model, (x, y) = trained(members=2), mixed(40)
    outcome = ours.run(model, x, y, threat, seed=3, ids=torch.arange(100, 140), batch_size=64)
    correct = predictions(model, x) == y
    first = 100 + int(correct.nonzero()[0])
    with torch.random.fork_rng(devices=[]):
        x_adv = theirs(model, threat, ours.seed_of(3, first)).perturb(x[correct], y[correct])
    assert torch.equal(outcome.broken[correct], predictions(model, x_adv) != y[correct])
    torch.testing.assert_close(outcome.x_adv[correct], x_adv, rtol=0, atol=1e-4)
    assert outcome.broken[~correct].all()
    assert 0 < outcome.broken[correct].sum() < correct.sum() < 40
    threat.check(outcome.x_adv, x)


@pytest.mark.parametrize(("attack", "field"), [(fab_t(100), "fab"), (square(5000), "square")], ids=["fab", "square"])
def test_settings_are_those_of_autoattack_standard(
    attack: External, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyautoattack import AutoAttack

    model, (x, y) = trained(), images(8)
    published = getattr(AutoAttack(model, norm="Linf", eps=0.1, seed=0, version="standard"), field)
    made: list[Any] = []

    def perturb(self: Any, x: Tensor, y: Tensor) -> Tensor:
        made.append(self)
        return x

    monkeypatch.setattr(type(published), "perturb", perturb)
    outcome = attack.run(model, x, y, LINF)
    ignored = {"predict", "seed", "device", "targeted"}
    ours, reference = ({k: v for k, v in vars(a).items() if k not in ignored} for a in (made[0], published))
    assert ours == reference
    assert made[0].targeted == (field == "fab")  # AutoAttack sets it when it comes to FAB-T
    assert (outcome.steps == attack.steps).all()
    assert attack.steps == {"fab": 100, "square": 5000}[field]
    assert attack.name == {"fab": "fab-t100", "square": "square5000"}[field]


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_fab_t_on_linear_models_of_any_class_count_breaks_what_can_be_broken(classes: int) -> None:
    """Moving every pixel by eps closes a gap of eps·‖w_y − w_j‖₁, and no more."""
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, 16, generator=generator)
    model = Linear(weight, -weight.sum(dim=1) / 2)  # no class is likelier at the middle of the box
    x = 0.35 + 0.3 * torch.rand(60, 1, 4, 4, generator=generator)
    y, threat = predictions(model, x), ThreatModel(eps=0.015)
    gap = model(x).gather(1, y[:, None]) - model(x)
    reach = threat.eps * (model.weight[y][:, None] - model.weight[None]).abs().sum(dim=2)
    slack = (reach - gap).scatter(1, y[:, None], -torch.inf)
    if classes > 10:  # only the nine strongest wrong classes are tried
        tried = gap.scatter(1, y[:, None], torch.inf).topk(9, dim=1, largest=False).indices
        slack = slack.gather(1, tried)
    slack = slack.amax(dim=1)
    clear = slack.abs() > 1e-2
    outcome = fab_t(20).run(model, x, y, threat)
    assert 10 < (slack > 0).sum() < 50
    assert torch.equal(outcome.broken[clear], (slack > 0)[clear])


@each_threat
def test_fab_t_survives_gradients_that_are_zero(threat: ThreatModel) -> None:
    flat = Wrapped(trained(), lambda logits, x: logits.detach() + 0 * logits)
    outcome = fab_t(5).run(flat, *images(10), threat)
    assert not outcome.broken[outcome.steps > 0].any()
    assert (outcome.steps > 0).any()


def test_settings_of_a_call_go_to_the_library() -> None:
    assert fab_t(10, n_restarts=3, name="mine").settings() == {
        "name": "mine",
        "toolkit": "autoattack",
        "attack": "FABAttack_PT",
        "arguments": {"n_iter": 10, "targeted": True, "n_restarts": 3, "n_target_classes": 9},
        "steps": 10,
    }
    with pytest.raises(InvalidValueError, match="'restarts' is no argument of autoattack:SquareAttack: choose from"):
        square(10, restarts=3)


# torchattacks and ART


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("torchattacks:DIFGSM(steps=20, decay=0.5, random_start=True)", 20),
        ("torchattacks:PGDRS(steps=3, noise_sd=0.05)", 3),
        ("torchattacks:APGDT(steps=4)", 4),
        ("torchattacks:FAB(multi_targeted=True, steps=3)", 3),
        ("torchattacks:Square(n_queries=50)", 50),
        ("torchattacks:FFGSM", 1),
        ("art:AutoProjectedGradientDescent(max_iter=5, nb_random_init=1)", 5),
        ("art:SquareAttack(max_iter=20)", 20),
        ("art:BasicIterativeMethod(max_iter=5)", 5),
    ],
)
def test_attacks_of_the_toolkits_run_and_leave_no_trace(name: str, steps: int) -> None:
    model, (x, y), threat = trained(members=2), mixed(24), ThreatModel(eps=0.15)
    before = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())
    entered_once(model, x)  # the attacks' own calls are counted
    with recorded(model) as calls:
        outcome = parse(name).run(model.train(), x, y, threat, seed=1, batch_size=16)
        again = parse(name).run(model.train(), x, y, threat, seed=1, batch_size=16)
    assert (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()) == before
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    model.eval()
    threat.check(outcome.x_adv, x)
    correct = predictions(model, x) == y
    assert torch.equal(outcome.broken, predictions(model, outcome.x_adv) != y)
    assert torch.equal(outcome.steps, torch.where(correct, steps, 0))
    assert ((outcome.x_adv != x).flatten(1).any(dim=1) <= correct).all()
    assert outcome.broken[correct].any()
    assert torch.equal(again.x_adv, outcome.x_adv)
    # A call with gradients on is differentiated at most once.
    forwards, differentiable = sum(n for n, _ in calls) // 2, sum(n for n, gradient in calls if gradient) // 2
    assert forwards <= outcome.passes <= forwards + differentiable


@pytest.mark.parametrize(
    "name", ["torchattacks:FGSM", "art:FastGradientMethod", "art:ProjectedGradientDescent(max_iter=1, eps_step=0.1)"]
)
def test_one_step_is_the_sign_of_the_gradient(name: str) -> None:
    model, (x, y) = trained(members=2), images(20)
    correct = predictions(model, x) == y
    at = x[correct].requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(at), y[correct], reduction="sum"), at)
    expected = (at.detach() + 0.1 * grad.sign()).clamp(0, 1)
    outcome = parse(name).run(model, x, y, LINF)
    different = (outcome.x_adv[correct] - expected).abs() > 1e-6
    assert not (different & (grad.abs() > 1e-6)).any()  # the sign of next to nothing depends on rounding
    extra = 2 if "Projected" in name else 0  # it asks for its success rate
    assert outcome.passes == 20 + (3 + extra) * correct.sum()


def test_l2_attacks() -> None:
    model, (x, y) = trained(members=2), images(16)
    for name in ("torchattacks:PGDL2", "torchattacks:APGD", "art:ProjectedGradientDescent(max_iter=10)"):
        outcome = parse(name).run(model, x, y, L2)
        L2.check(outcome.x_adv, x)
        assert L2.distance(outcome.x_adv, x).max() > 0.45
        assert outcome.broken.any()


def test_step_sizes_keep_their_ratio_to_eps_unless_given() -> None:
    import torchattacks as library

    def alpha(**given: Any) -> Any:
        return arguments.complete(
            "torchattacks:PGD", library.PGD, given, fixed={"eps": 0.1}, defaults={}, step_size="alpha"
        )["alpha"]

    assert alpha() == pytest.approx(0.1 / 4)  # theirs: 2/255 at 8/255
    assert alpha(alpha=0.01) == 0.01


@pytest.mark.parametrize(
    ("name", "threat", "message"),
    [
        ("torchattacks:PGD(eps=8/255)", LINF, r"torchattacks:PGD: eps is 0\.031\d+, but the evaluation says 0\.1"),
        ("torchattacks:APGD(norm='L2')", LINF, r"torchattacks:APGD: norm is 'L2', but the evaluation says 'Linf'"),
        ("torchattacks:APGDT(n_classes=100)", LINF, "n_classes is 100, but the evaluation says 10"),
        ("torchattacks:PIFGSM(max_epsilon=0.5)", LINF, r"max_epsilon is 0\.5"),
        ("torchattacks:PGDL2", LINF, "torchattacks:PGDL2 attacks under l2, but the threat model is linf"),
        ("torchattacks:PGD", L2, "torchattacks:PGD attacks under linf, but the threat model is l2"),
        ("art:ProjectedGradientDescent(norm=2)", LINF, "art:ProjectedGradientDescent: norm is 2"),
        ("art:ProjectedGradientDescent(targeted=True)", LINF, "targeted is True"),
        ("art:BasicIterativeMethod", L2, "art:BasicIterativeMethod attacks under linf"),
        ("art:GRAPHITEWhiteboxPyTorch", LINF, "needs net_size"),
    ],
)
def test_arguments_that_contradict_the_evaluation(name: str, threat: ThreatModel, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        parse(name).run(trained(), *images(4), threat)


def test_arguments_that_agree_with_the_evaluation() -> None:
    model, (x, y) = trained(), images(8)
    for name in ("torchattacks:APGD(steps=3, {})", "art:ProjectedGradientDescent(max_iter=3, {})"):
        bare = parse(name.format("")).run(model, x, y, LINF)
        norm = "'Linf'" if name.startswith("t") else "'inf'"
        told = parse(name.format(f"eps=1/10, norm={norm}")).run(model, x, y, LINF)
        assert torch.equal(told.broken, bare.broken)


def test_unknown_attacks_and_arguments() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown attack of torchattacks 'DIFGM'.* DIFGSM,"):
        parse("torchattacks:DIFGM")
    with pytest.raises(UnknownNameError, match="unknown attack of torchattacks 'MultiAttack'"):
        parse("torchattacks:MultiAttack")
    with pytest.raises(UnknownNameError, match=r"unknown attack of art 'ImperceptibleASR'.* SquareAttack"):
        parse("art:ImperceptibleASR")
    with pytest.raises(
        InvalidValueError, match=r"'step' is no argument of torchattacks:DIFGSM: choose from eps, alpha, st"
    ):
        parse("torchattacks:DIFGSM(step=5)")
    with pytest.raises(InvalidValueError, match="'max_steps' is no argument of art:SquareAttack: choose from norm,"):
        parse("art:SquareAttack(max_steps=5)")
    with pytest.raises(InvalidValueError, match="'model' is no argument"):
        parse("torchattacks:PGD(model=5)")


def test_every_attack_has_its_arguments_listed() -> None:
    for toolkit in (torchattacks, art, autoattack):
        for name in toolkit._attacks():
            assert toolkit.check(name, {}) >= 1


# AutoAttack itself


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with few steps, so that all four attacks run within a second."""
    from pyautoattack import AutoAttack

    whole = AutoAttack._set_version

    def brief(self: Any, version: str) -> None:
        whole(self, version)
        self.apgd.n_iter = self.apgd_targeted.n_iter = 3
        self.fab.n_iter, self.square.n_queries = 1, 5

    monkeypatch.setattr(AutoAttack, "_set_version", brief)


@each_threat
@pytest.mark.usefixtures("short")
def test_autoattack_beside_us_is_autoattack(threat: ThreatModel) -> None:
    from pyautoattack import AutoAttack

    model, (x, y) = trained(members=2), mixed(40)
    before, log = torch.get_rng_state(), logging.getLogger("auto-attack")
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    backwards: list[int] = []

    def differentiated(_: Any, __: Any, logits: Tensor) -> None:
        if logits.requires_grad:
            logits.register_hook(lambda grad: backwards.append(len(grad)))

    entered_once(model, strided)  # its calls are not the attack's
    hook = model.register_forward_hook(differentiated)
    with recorded(model) as calls:
        x_adv, robust, passes = autoattack.pyautoattack_standard(
            model.train(), strided, y, threat, seed=5, batch_size=16
        )
    hook.remove()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not log.disabled
    assert passes == sum(n for n, _ in calls) - 1 + sum(backwards)  # one image tells the number of classes
    model.eval()
    with torch.random.fork_rng(devices=[]):
        made = AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[threat.norm], eps=threat.eps, seed=5)
        direct, labels = made.run_standard_evaluation(x, y, batch_size=16)
    assert torch.equal(robust, labels == y)
    assert torch.equal(robust, predictions(model, x_adv) == y)
    torch.testing.assert_close(x_adv, direct, rtol=0, atol=1e-4)
    assert 0 < robust.sum() < (predictions(model, x) == y).sum() < 40


@pytest.mark.usefixtures("short")
def test_autoattack_takes_few_classes_and_leaves_the_tracer_alone(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(9, 1, 4, 4, generator=generator)

    def linear(classes: int) -> tuple[Linear, Tensor]:
        model = Linear(torch.randn(classes, 16, generator=generator), torch.zeros(classes))
        return model, predictions(model, x)

    def tracer(*_: Any) -> None:
        return None

    model, y = linear(5)
    old = sys.gettrace()
    with caplog.at_level(logging.DEBUG):
        try:
            sys.settrace(tracer)
            _, robust, passes = autoattack.pyautoattack_standard(model, x, y, ThreatModel(eps=0.02))
            kept = sys.gettrace()
        finally:
            sys.settrace(old)
    assert kept is tracer
    assert not caplog.records
    assert robust.any()
    assert passes > 9 * 5
    model, y = linear(3)
    with pytest.raises(InvalidValueError, match="the model has 3 classes: AutoAttack's targeted DLR loss needs 4"):
        autoattack.pyautoattack_standard(model, x, y, LINF)
    empty, robust, passes = autoattack.pyautoattack_standard(model, x[:0], y[:0], LINF)
    assert (len(empty), len(robust), passes) == (0, 0, 0)
