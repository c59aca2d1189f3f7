"""PGD attacks against closed forms on linear models, torchattacks, and torch's own Adam."""

import dataclasses
import itertools
import math

import pytest
import torch
import torchattacks
from small_models import Linear, images, trained
from torch import Tensor

from ensemble_bench import ThreatModel, attacks
from ensemble_bench.attacks.engine import GradientAttack
from ensemble_bench.attacks.pgd import PGDAdam
from ensemble_bench.errors import InvalidValueError, UnknownNameError

LINEAR_ATTACKS = ("ifgsm5", "ifgsm7", "pgd20", "margin10", "apgd20", "apgd-dlr20")


def linear_problem(norm: str, scale: float) -> tuple[Linear, Tensor, Tensor, ThreatModel, Tensor]:
    """A two-class linear model, grey images, and each image's margin (right minus wrong) after the best attack."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(400, 30, generator=generator, dtype=torch.float64)
    threat = ThreatModel(norm=norm, eps=0.006 if norm == "linf" else 0.03)
    w = weight[1] - weight[0]
    bias = torch.stack([torch.zeros(()), -(x @ w).median()]).to(weight)
    gap = x @ w + bias[1]
    y = (gap > 0).long()
    reach = threat.eps * (w.abs().sum() if norm == "linf" else w.norm())
    return Linear(scale * weight, scale * bias), x, y, threat, scale * (gap.abs() - reach)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("name", "scale"),
    [*((name, 1.0) for name in LINEAR_ATTACKS), ("margin10", 300.0), ("apgd-dlr20", 300.0)],
)
def test_linear_model_breaks_exactly_when_the_closed_form_says_so(norm: str, name: str, scale: float) -> None:
    """At scale 300 probabilities saturate, which losses of the logits do not see."""
    model, x, y, threat, left = linear_problem(norm, scale)
    # Seven steps of eps/4 do not cross the ball, and under l2 noise across the one gradient would remain.
    crosses = name.startswith("apgd") or (norm == "linf" and name != "ifgsm7")
    attack = attacks.get(name.replace("20", "50"), random_start=crosses)
    outcome = attack.run(model, x, y, threat, seed=1)
    clear = left.abs() > 1e-4 * scale
    assert 0.2 < (left < 0).double().mean() < 0.8  # else nothing would be shown
    assert clear.double().mean() > 0.9
    assert torch.equal(outcome.broken[clear], left[clear] < 0)
    threat.check(outcome.x_adv, x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", LINEAR_ATTACKS)
def test_unbroken_images_come_back_at_the_linear_optimum(norm: str, name: str) -> None:
    model, x, y, threat, left = linear_problem(norm, 1.0)
    outcome = attacks.get(name, random_start=False).run(model, x, y, threat)
    standing = ~outcome.broken
    torch.testing.assert_close(-outcome.margin[standing], left[standing], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "alpha"), [("ifgsm5", 2.5 / 5), ("ifgsm7", 0.25), ("ifgsm10", 0.25)])
def test_ifgsm_equals_torchattacks(name: str, alpha: float) -> None:
    # In float64 no gradient is so small that rounding turns its sign: one turned pixel is a step apart.
    model, threat = trained().double(), ThreatModel(eps=0.1)
    x, y = images(200)[0].double(), images(200)[1]
    steps = int(name.removeprefix("ifgsm"))
    reference = torchattacks.PGD(model, eps=threat.eps, alpha=alpha * threat.eps, steps=steps, random_start=False)(x, y)
    attack = attacks.get(name, random_start=False, stop_early=False, keep="last")
    torch.testing.assert_close(attack(model, x, y, threat), reference, rtol=0, atol=1e-6)
    with torch.no_grad():
        theirs = (model(reference).argmax(dim=1) == y).sum()
    for stop_early in (True, False):
        scoring = attacks.get(name, random_start=False, stop_early=stop_early)
        ours = (~scoring.run(model, x, y, threat).broken).sum()
        assert ours <= theirs
    assert 20 < theirs < 180  # a mixed field


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_pgd_adam_equals_torch_adam_with_projection(steps: int) -> None:
    model, threat = trained().double(), ThreatModel(eps=0.1)
    x, y = images(40)[0].double(), images(40)[1]
    attack = PGDAdam(name="adam", steps=steps, random_start=False, stop_early=False)
    found = attack(model, x, y, threat, batch_size=16)

    x_adv = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([x_adv], lr=0.25 * threat.eps, betas=(0.9, 0.999), eps=1e-60, maximize=True)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(x_adv), y, reduction="sum")
        (x_adv.grad,) = torch.autograd.grad(loss, x_adv)
        optimizer.step()
        decay.step()
        with torch.no_grad():
            x_adv.copy_(x_adv.clamp(x - threat.eps, x + threat.eps).clamp(0, 1))
    torch.testing.assert_close(found, x_adv.detach(), rtol=0, atol=1e-5)


def test_adam_moves_under_gradients_that_vanish_in_float32_squares() -> None:
    model, x, y, threat, left = linear_problem("linf", 1.0)
    weight, bias = model.weight.detach().float(), model.bias.detach().float()
    # A cross-entropy whose gradient is about 1e-30: certain, but not saturated to 0.
    shifted = Linear(weight, bias)
    x, y = x.float(), y
    certain = (left < 0) & (left > -0.02)

    def tiny(logits: Tensor, labels: Tensor) -> Tensor:
        return 1e-30 * torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    outcome = attacks.get("pgd20", loss=tiny).run(shifted, x, y, threat)
    clear = left.abs() > 1e-4
    assert torch.equal(outcome.broken[clear], left[clear] < 0)
    assert certain.any()


def test_fields_are_what_the_names_say() -> None:
    threat_free = {
        "ifgsm5": {"steps": 5, "step_size": 0.5},
        "ifgsm7": {"steps": 7, "step_size": 0.25},
        "ifgsm500": {"steps": 500, "step_size": 0.005},
        "pgd20": {"steps": 20, "learning_rate": 0.25, "keep": "best"},
        "margin20": {"steps": 20, "step_size": 0.125, "loss": "margin"},
        "apgd100": {"steps": 100, "loss": "cross_entropy", "rho": 0.75},
        "apgd-dlr100": {"steps": 100, "loss": "dlr"},
    }
    for name, fields in threat_free.items():
        attack = attacks.get(name)
        assert attack.name == name
        assert attack.settings().items() >= fields.items()
        with pytest.raises(dataclasses.FrozenInstanceError):
            attack.name = "other"  # type: ignore[misc]


def test_settings_override_the_defaults_and_bad_ones_raise() -> None:
    attack = attacks.get("ifgsm5", step_size=0.1, restarts=3)
    assert isinstance(attack, GradientAttack)
    assert (attack.settings()["step_size"], attack.restarts) == (0.1, 3)
    with pytest.raises(InvalidValueError, match="restarts is 0"):
        attacks.get("pgd5", restarts=0)
    with pytest.raises(InvalidValueError, match="keep is 'first'"):
        attacks.get("pgd5", keep="first")
    with pytest.raises(UnknownNameError, match="unknown attack 'pgdx'"):
        attacks.get("pgdx")


def test_more_restarts_never_leave_more_images_standing() -> None:
    model, (x, y), threat = trained(), images(200), ThreatModel(eps=0.1)
    broken = [attacks.get("ifgsm2", restarts=r).run(model, x, y, threat).broken for r in (1, 2, 5)]
    for fewer, more in itertools.pairwise(broken):
        assert not (fewer & ~more).any()
    assert broken[-1].sum() > broken[0].sum()  # restarts must differ to be worth anything


def test_margin_pgd_finds_at_least_what_its_start_finds() -> None:
    """Keeping the best iterate: what comes back of a standing image is no worse than any point of its path."""
    model, (x, y), threat = trained(), images(60), ThreatModel(eps=0.05)
    seen: list[Tensor] = []

    class Watched(type(attacks.get("margin8"))):  # type: ignore[misc]
        def step(self, s, value, grad, threat):  # type: ignore[no-untyped-def]
            full = torch.full((60,), -math.inf)
            full[s["row"]] = value
            seen.append(full)
            super().step(s, value, grad, threat)

    base = attacks.get("margin8")
    watched = Watched(**{f.name: getattr(base, f.name) for f in dataclasses.fields(base)})
    outcome = watched.run(model, x, y, threat)
    best = torch.stack(seen).amax(dim=0)
    standing = ~outcome.broken
    assert (outcome.margin[standing] >= best[standing] - 1e-5).all()
