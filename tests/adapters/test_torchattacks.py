"""torchattacks both ways: every class of it on an ensemble of ours, and our attacks as one of its classes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchattacks
from small_models import Linear, Wrapped, images, trained
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ensemble_bench as eb
from ensemble_bench.adapters.torchattacks import EngineAttack, module
from ensemble_bench.errors import InvalidValueError, UnknownNameError

# Of SparseFool, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
EPS, ALPHA = 0.2, 0.05
LINF, L2 = eb.ThreatModel(eps=EPS), eb.ThreatModel(norm="l2", eps=1.5)
BALL = {"eps": EPS}
STEPS = {"eps": EPS, "alpha": ALPHA}

# Arguments of every attack, and the ball that it promises to keep to.
CALLS: dict[str, tuple[dict[str, Any], eb.ThreatModel | None]] = {
    "VANILA": ({}, LINF),
    "GN": ({"std": 0.5}, None),
    "FGSM": (BALL, LINF),
    "BIM": (STEPS, LINF),
    "RFGSM": (STEPS, LINF),
    "PGD": (STEPS, LINF),
    "EOTPGD": (STEPS, LINF),
    "FFGSM": ({"eps": EPS, "alpha": 1.25 * EPS}, LINF),
    "TPGD": (STEPS, LINF),
    "MIFGSM": (STEPS, LINF),
    "UPGD": (STEPS, LINF),
    "APGD": (BALL, LINF),
    "APGDT": (BALL, LINF),
    "DIFGSM": (STEPS, LINF),
    "TIFGSM": ({**STEPS, "len_kernel": 3}, LINF),
    "Jitter": (STEPS, LINF),
    "NIFGSM": (STEPS, LINF),
    "PGDRS": ({**STEPS, "noise_sd": 0.05}, LINF),
    "SINIFGSM": (STEPS, LINF),
    "VMIFGSM": (STEPS, LINF),
    "VNIFGSM": (STEPS, LINF),
    "SPSA": ({**BALL, "lr": 0.05, "nb_iter": 10}, LINF),
    "JSMA": ({"gamma": 0.3}, None),
    "EADL1": ({"max_iterations": 40, "binary_search_steps": 2, "initial_const": 1.0, "lr": 0.02}, None),
    "EADEN": ({"max_iterations": 40, "binary_search_steps": 2, "initial_const": 1.0, "lr": 0.02}, None),
    "PIFGSM": ({"max_epsilon": EPS}, LINF),
    "PIFGSMPP": ({"max_epsilon": EPS}, LINF),
    "CW": ({"c": 10, "lr": 0.1}, None),
    "PGDL2": ({"eps": 1.5, "alpha": 0.3}, L2),
    "DeepFool": ({}, None),
    "PGDRSL2": ({"eps": 1.5, "alpha": 0.3, "noise_sd": 0.05}, L2),
    "SparseFool": ({"steps": 3}, None),
    "OnePixel": ({"pixels": 5, "steps": 10, "popsize": 100}, None),
    "Pixle": ({"x_dimensions": (2, 4), "y_dimensions": (2, 4)}, None),
    "FAB": (BALL, LINF),
    "AutoAttack": ({"eps": 2 * EPS}, eb.ThreatModel(eps=2 * EPS)),  # leaves nothing to Square's 5,000 queries
    "Square": ({**BALL, "n_queries": 200}, LINF),
}
# What is no attack on one model, and what of it cannot work through `module`; the tests are below.
WRAPPERS = {
    "MultiAttack": "runs attacks one after the other: works",
    "LGV": "attacks models that it is given: works; trains copies of its model: only with the model itself",
}
# Their shrinkage leaves [0, 1] by up to a step.
LEAVES_BOX = {"EADL1": 0.02, "EADEN": 0.02}
# In targeted mode these take the labels that they are called with for the targets.
LABELS_ARE_TARGETS = ("SPSA", "PIFGSMPP")


class Grey(nn.Module):
    """The digits network as one of colour images, which some attacks need."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.mean(dim=1, keepdim=True))


class Failing(nn.Module):
    """The model until its third call, which raises."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("third call")
        return self.model(x)


def colour(n: int) -> tuple[Tensor, Tensor]:
    x, y = images(n)
    return x.expand(-1, 3, -1, -1).contiguous(), y


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def used(model: nn.Module) -> nn.Module:
    """`model` in a state that an attack could spoil: modes that differ, a frozen parameter, gradients."""
    nn.functional.cross_entropy(model(colour(4)[0]), colour(4)[1]).backward()
    for layer in list(model.modules())[::2]:
        layer.training = True
    next(model.parameters()).requires_grad_(False)
    return model


def traces(model: nn.Module) -> tuple[Any, ...]:
    """Everything of a model that an attack might change."""
    state = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    grads = [p.grad.tolist() for p in model.parameters() if p.grad is not None]
    assert grads
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], grads, state


# torchattacks on our models


def test_every_attack_of_torchattacks_is_tried() -> None:
    assert CALLS.keys() | WRAPPERS.keys() == set(torchattacks.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_attack_runs_on_an_ensemble_and_leaves_it_as_found(name: str) -> None:
    arguments, ball = CALLS[name]
    model, (x, y) = Grey(trained(members=2)), colour(10)
    assert (predictions(model, x) == y).all()
    before = traces(used(model))
    torch.manual_seed(0)
    x_adv = getattr(torchattacks, name)(module(model), **arguments)(x, y)
    assert traces(model) == before
    assert x_adv.shape == x.shape
    slack = LEAVES_BOX.get(name, 0)
    assert -slack <= x_adv.min() <= x_adv.max() <= 1 + slack
    if ball is not None:
        ball.check(x_adv, x)
    broken = predictions(model.eval(), x_adv) != y
    assert broken.any() != (name == "VANILA")


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("VANILA", "GN")])  # these ask no model
def test_attack_that_is_broken_off_leaves_no_trace(name: str) -> None:
    model, (x, y) = Grey(trained(members=2)), colour(4)
    before = traces(used(model))
    failing = Failing(model)
    failing.calls = 2 if name in ("FGSM", "FFGSM") else 0  # they ask once
    with pytest.raises(RuntimeError, match="third call"):
        getattr(torchattacks, name)(module(failing), **CALLS[name][0])(x, y)
    assert traces(model) == before


TARGETED = [name for name in CALLS if "targeted" in getattr(torchattacks, name)(nn.Linear(1, 1)).supported_mode]


@pytest.mark.parametrize("name", TARGETED)
def test_targeted_mode_reaches_targets(name: str) -> None:
    model, (x, y) = Grey(trained(members=2)), colour(10)
    attack = getattr(torchattacks, name)(module(model), **CALLS[name][0])
    with torch.no_grad():
        target = model(x).topk(2).indices[:, 1]
    torch.manual_seed(0)
    if name in LABELS_ARE_TARGETS:
        attack.set_mode_targeted_by_label(quiet=True)
        x_adv = attack(x, target)
    else:
        attack.set_mode_targeted_by_function(lambda *_: target, quiet=True)
        x_adv = attack(x, y)
    assert (predictions(model, x_adv) == target).any()


def test_negative_logits_would_switch_cw_off() -> None:
    """It takes the largest of the logits and a 0; the view's are not negative, and otherwise the same."""
    model, (x, y) = Grey(trained(members=2)), colour(10)
    arguments, _ = CALLS["CW"]
    assert torch.equal(torchattacks.CW(model, **arguments)(x, y), x)
    with torch.no_grad():
        logits, shown = model(x), module(model)(x)
    assert (logits <= 0).all()
    assert (shown.amin(dim=1) == 0).all()
    torch.testing.assert_close(shown.log_softmax(1), logits)


def test_multi_attack() -> None:
    model, (x, y) = Grey(trained(members=2)), colour(30)
    view = module(model)
    weak, strong = torchattacks.FGSM(view, eps=EPS), torchattacks.APGD(view, eps=EPS)
    expected = weak(x, y)
    missed = predictions(model, expected) == y
    expected[missed] = strong(x[missed], y[missed])
    found = torchattacks.MultiAttack([weak, strong])(x, y)
    broken = predictions(model, expected) != y
    assert torch.equal(found[broken], expected[broken])
    assert broken[missed].any()
    assert not missed.all()


def lgv(model: nn.Module) -> Any:
    loader = DataLoader(TensorDataset(*colour(20)), batch_size=5)
    return torchattacks.LGV(model, loader, epochs=1, nb_models_epoch=2, lr=0.01, verbose=False, **STEPS)


def test_lgv_attacks_models_that_it_is_given() -> None:
    model, (x, y) = Grey(trained(members=2)), colour(20)
    attack = lgv(module(model))
    attack.load_models([module(model), module(Grey(trained(seed=1)))])
    x_adv = attack(x, y)
    LINF.check(x_adv, x)
    assert (predictions(model, x_adv) != y).any()


def test_lgv_trains_copies_of_the_model_itself() -> None:
    model, (x, y) = Grey(trained(members=2)), colour(20)
    with pytest.raises(RuntimeError, match="does not require grad"):
        lgv(module(model)).collect_models()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x_adv = lgv(model)(x, y)
    LINF.check(x_adv, x)
    assert (predictions(model, x_adv) != y).any()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_gradient_is_that_of_minus_log_mean_probability() -> None:
    """Written out in float64 without our ensemble."""
    model, (x, y) = trained(members=2).double(), images(8)
    at, x = (x.double().requires_grad_() for _ in range(2))
    mean = sum(member(x).softmax(dim=1) for member in model.members) / 2
    (expected,) = torch.autograd.grad(-mean.gather(1, y[:, None]).log().sum(), x)
    loss = nn.functional.cross_entropy(module(model)(at), y, reduction="sum")
    torch.testing.assert_close(torch.autograd.grad(loss, at)[0], expected, rtol=1e-6, atol=0)


# Our attacks as a class of torchattacks


def engine_attack(given: nn.Module, attack: str, threat: eb.ThreatModel, **settings: Any) -> EngineAttack:
    return EngineAttack(
        given, attack=attack, eps=threat.eps, norm={"linf": "Linf", "l2": "L2"}[threat.norm], **settings
    )


@pytest.mark.parametrize("threat", [LINF, L2], ids=lambda threat: threat.norm)
@pytest.mark.parametrize("name", ["mora10", "margin10", "bypass10", "pgd5"])
@pytest.mark.parametrize("wrap", [lambda model: model, module], ids=["ensemble", "module"])
def test_result_is_that_of_the_attack(wrap: Callable[..., nn.Module], name: str, threat: eb.ThreatModel) -> None:
    model, (x, y) = trained(members=2), images(20)
    expected = eb.attacks.get(name)(model, x, y, threat, seed=3, batch_size=8)
    assert torch.equal(engine_attack(wrap(model), name, threat, seed=3, batch_size=8)(x, y), expected)
    assert (predictions(model, expected) != y).any()


def test_any_module_and_any_attack_will_do() -> None:
    model, (x, y) = Linear(torch.randn(10, 192, generator=torch.Generator().manual_seed(0)), torch.zeros(10)), colour(9)
    y = predictions(model, x)
    attack = eb.attacks.get("pgd5", stop_early=False)
    made = EngineAttack(model, attack, eps=0.01)
    assert torch.equal(made(x, y), attack(model, x, y, eb.ThreatModel(eps=0.01)))
    made.eps = 0.02  # as users of torchattacks do
    assert torch.equal(made(x, y), attack(model, x, y, eb.ThreatModel(eps=0.02)))
    assert "pgd5(" in repr(made)
    assert "eps=0.02" in repr(made)


def test_it_leaves_no_trace(tmp_path: Path) -> None:
    model, (x, y) = Grey(trained(members=2)), colour(12)
    before, state = traces(used(model)), torch.get_rng_state()
    engine_attack(model, "mora5", LINF)(x, y)
    engine_attack(model, "mora5", LINF).save(DataLoader(TensorDataset(x, y), 5), str(tmp_path / "saved.pt"))
    with pytest.raises(RuntimeError, match="third call"):
        engine_attack(Failing(model), "mora5", LINF)(x, y)
    assert traces(model) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("save_type", ["float", "int"])
def test_save_and_load(save_type: str, tmp_path: Path) -> None:
    model, (x, y) = trained(members=2), images(12)
    attack, path = engine_attack(model, "margin10", LINF), str(tmp_path / "saved.pt")
    loader = DataLoader(TensorDataset(x, y), batch_size=12)
    accuracy, _, _ = attack.save(loader, path, save_predictions=True, return_verbose=True, save_type=save_type)
    ((saved, labels, predicted),) = torchattacks.PGD.load(path, load_predictions=True)
    x_adv = eb.attacks.get("margin10")(model, x, y, LINF)
    torch.testing.assert_close(saved, x_adv, rtol=0, atol=1 / 255 if save_type == "int" else 0)
    assert torch.equal(labels, y)
    assert torch.equal(predicted, predictions(model, x_adv))
    assert accuracy == pytest.approx(100 * (predicted == y).float().mean().item())


def test_it_stands_beside_other_attacks() -> None:
    model, (x, y) = Grey(trained(members=2)), colour(30)
    view = module(model)
    weak, strong = torchattacks.FGSM(view, eps=EPS), engine_attack(view, "margin10", LINF)
    missed = predictions(model, weak(x, y)) == y
    expected = eb.attacks.get("margin10")(model, x[missed], y[missed], LINF)
    found = torchattacks.MultiAttack([weak, strong])(x, y)[missed]
    broken = predictions(model, expected) != y[missed]
    assert torch.equal(found[broken], expected[broken])
    assert broken.any()


class Denormalised(nn.Module):
    """`model` as one that takes normalised images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z * 0.25 + 0.5)


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_normalised_images(single: bool, nested: bool) -> None:
    """Of an ensemble whose members want normalised images, the attack still sees the members."""
    model, (x, y) = trained(members=2).double(), images(12)
    x = x.double()
    theirs = Denormalised(model) if single else eb.Ensemble([Denormalised(m) for m in model.members]).eval()
    reference = Wrapped(model, lambda logits, _: logits) if single else model
    expected = eb.attacks.get("mora10")(reference, x, y, LINF)
    attack = engine_attack(theirs, "mora10", LINF)
    if nested:  # the outer attack then normalises
        attack = torchattacks.MultiAttack([attack, torchattacks.VANILA(theirs)])
    attack.set_normalization_used([0.5], [0.25])
    found = attack((x - 0.5) / 0.25, y) * 0.25 + 0.5
    broken = predictions(model, expected) != y
    assert broken.any()
    torch.testing.assert_close(found[broken], expected[broken], rtol=0, atol=1e-5)
    LINF.check(found.clamp(0, 1), x)


def test_errors() -> None:
    model = trained()
    with pytest.raises(UnknownNameError, match="unknown attack 'morra100': did you mean mora"):
        EngineAttack(model, "morra100")
    for settings, message in (
        ({"norm": "L1"}, "norm is 'L1': choose Linf or L2"),
        ({"eps": 8}, "eps is 8"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            EngineAttack(model, **settings)
    attack = EngineAttack(model)
    with pytest.raises(ValueError, match="Targeted mode is not supported"):
        attack.set_mode_targeted_random()
    with pytest.raises(InvalidValueError, match="training mode cannot be set"):
        attack.set_model_training_mode(True)
    attack.set_model_training_mode()
    with pytest.raises(InvalidValueError, match="labels"):
        attack(*images(4)[:1], torch.full((4,), 10))


def test_importing_the_adapter_does_not_import_the_toolkit() -> None:
    code = "import sys, ensemble_bench.adapters.torchattacks as t; assert 'torchattacks' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
