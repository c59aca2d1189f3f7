"""The look at a model before it is attacked: batch-mates, draws, probabilities, scales, gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import Wrapped, images, perceptron, trained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.evaluation.runner import Result
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.entry import enter

N = 24
KINDS = ("small_cnn", "preact_resnet18", "vgg16_bn")
HONEST: dict[str, dict[str, Any]] = {
    **{f"{kind}-gated{gated}": {"backbone": kind, "gated": gated} for kind in KINDS for gated in (False, True)},
    "wrn": {"backbone": "wrn", "depth": 10},
}


def evaluated(model: nn.Module, suite: str = "ifgsm5", **settings: Any) -> Result:
    return eb.evaluate(model.eval(), dataset="digits", suite=suite, n=N, **settings)


def named(result: Result) -> set[str]:
    return {warning.name for warning in result.warnings}


class Layer(nn.Module):
    """A network of one hidden layer with `between` on its features."""

    def __init__(self, between: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        seen = perceptron(0)
        self.first, self.between, self.last = seen[:3], between, seen[3]  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.between(self.first(x)))
        return out


class AlwaysTraining(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, None, None, training=True)


# Models that depend on their batch-mates


BATCH = {
    "centred": lambda: Layer(lambda h: h - h.mean(0)),
    "scaled": lambda: Layer(lambda h: h / h.abs().max()),
    "ranked": lambda: Layer(lambda h: h + 0.01 * h.argsort(dim=0)),
    "cumulated": lambda: Layer(lambda h: h.cumsum(0) / torch.arange(1, len(h) + 1)[:, None]),
    "attending": lambda: Layer(lambda h: h + (h @ h.T).softmax(1) @ h),
    "no statistics": lambda: Layer(nn.BatchNorm1d(32, affine=False, track_running_stats=False)),
    "training": lambda: Layer(AlwaysTraining(32)),
    "alone is another": lambda: Layer(lambda h: h if len(h) > 1 else -h),
    "slightly": lambda: Layer(lambda h: h + 0.001 * h.mean(0)),
    "its place": lambda: Layer(lambda h: h + 0.1 * torch.arange(len(h))[:, None].sin()),
    "noisy too": lambda: Layer(lambda h: h - h.mean(0) + 0.01 * torch.randn_like(h)),
}


@pytest.mark.parametrize("how", BATCH)
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: Ensemble([perceptron(1), m])], ids=["alone", "member"])
def test_a_model_that_depends_on_its_batch_mates_is_refused(how: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(
        AttackError, match=r"^model: the model's answer to an image depends on the other images"
    ) as told:
        evaluated(wrap(BATCH[how]()))
    assert "\n" not in str(told.value)


def test_before_any_attack_and_whatever_the_batch_size() -> None:
    seen: list[int] = []
    model = Layer(lambda h: seen.append(len(h)) or h - h.mean(0))
    for batch_size in (1, 7, 128):
        with pytest.raises(AttackError, match="depends on the other images"):
            evaluated(model, suite="strongest", batch_size=batch_size)
    assert sum(seen) < 3 * 2000


@pytest.mark.parametrize("name", HONEST)
def test_honest_networks_are_let_in_as_they_are(name: str) -> None:
    about = {"width": 0.125, "classes": 10, "mean": (0.5,), "std": (0.25,), "members": 2, **HONEST[name]}
    shape = (3, 32, 32) if about["backbone"] in ("vgg16_bn", "preact_resnet18") else (1, 8, 8)
    about |= {"image_shape": shape, "mean": (0.5,) * shape[0], "std": (0.25,) * shape[0]}
    model = build(Architecture(**about)).eval()
    x = torch.rand(12, *shape)
    for aggregation in ("prob", "logit", "vote"):
        entered = enter(model.aggregate_as(aggregation), x)
        assert not entered.randomised
        assert entered.notes == ()
        assert not entered.no_gradient
    assert enter(model, x).model is model
    votes = enter(model.aggregate_as("vote"), x)  # whose counts have no gradient, but the members have
    assert (votes.judge, votes.climbed.aggregation) == (votes.model, "prob")
    for precision in (torch.bfloat16, torch.float16) if shape[0] == 1 else ():
        assert not enter(build(Architecture(**about)).eval().to(precision), x).randomised


@pytest.mark.parametrize("settings", [{}, {"members": 2}, {"members": 3}, {"eps": 0.0}, {"members": 2, "eps": 0.0}])
def test_so_are_trained_ones(settings: dict[str, Any]) -> None:
    model = trained(**settings)
    entered = enter(model, images(12)[0])
    assert (entered.model, entered.randomised, entered.notes, entered.no_gradient) == (model, False, (), "")


# Probabilities and scales


def voting(*networks: nn.Module) -> nn.Module:
    class Voting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.networks = nn.ModuleList(networks)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([network(x).softmax(1) for network in self.networks]).mean(0)

    return Voting()


PROBABILITIES = {
    "method": lambda k: Wrapped(perceptron(0), lambda z, x: (k * z).softmax(1)),
    "function": lambda k: Wrapped(perceptron(0), lambda z, x: torch.softmax(k * z, dim=-1)),
    "functional": lambda k: Wrapped(perceptron(0), lambda z, x: nn.functional.softmax(k * z, 1)),
    "module": lambda k: nn.Sequential(Wrapped(perceptron(0), lambda z, x: k * z), nn.Softmax(dim=1)),
}


@pytest.mark.parametrize("how", PROBABILITIES)
@pytest.mark.parametrize("k", [1.0, 30.0, 1000.0])
def test_probabilities_are_exactly_as_robust_as_the_logits(how: str, k: float) -> None:
    logits = evaluated(perceptron(0), "margin10")
    probs = evaluated(PROBABILITIES[how](k), "margin10")
    assert "probabilities-not-logits" in named(probs)
    assert "zero-gradients" not in named(probs)
    assert abs(probs.record.robust.robust - logits.record.robust.robust) <= 1
    assert probs.record.clean == logits.record.clean


def test_a_member_that_gives_probabilities_counts_as_one_that_gives_their_log() -> None:
    x, _ = images(N)
    pair = Ensemble([perceptron(0), nn.Sequential(perceptron(1), nn.Softmax(1))]).eval()
    right = Ensemble([perceptron(0), perceptron(1)]).eval()
    entered = enter(pair, x)
    torch.testing.assert_close(entered.model(x), right(x))
    assert dict(entered.notes).keys() == {"probabilities-not-logits"}
    mean = enter(voting(perceptron(0), perceptron(1)), x)
    torch.testing.assert_close(mean.model(x), right(x))


@pytest.mark.parametrize("k", [1e-8, 1e-5, 1e4, 1e8])
def test_a_scale_of_the_logits_hides_nothing(k: float) -> None:
    for suite in ("ifgsm5", "apgd10"):
        plain, scaled = evaluated(perceptron(0), suite), evaluated(Wrapped(perceptron(0), lambda z, x: k * z), suite)
        assert named(scaled) == {"rescaled-logits"}
        assert scaled.record.clean == plain.record.clean
        assert abs(scaled.record.robust.robust - plain.record.robust.robust) <= 1


@pytest.mark.parametrize("change", [lambda z: z.round(), lambda z: z.sign(), lambda z: 5.0 * (z > 0)])
def test_rounded_and_saturated_logits_are_named_before_the_attacks(change: Callable[[Tensor], Tensor]) -> None:
    told: list[str] = []

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        told.append(str(fields.get("status", label)))

    model = Wrapped(perceptron(0), lambda z, x: change(z) + 0 * z)
    found = evaluated(model, "ifgsm1+square20", progress=progress)
    assert "coarse-logits" in named(found)
    assert told[0].startswith("coarse-logits: ")


# Gradients


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "attack", ["ifgsm5", "apgd5", "mora2", "square20", "arc2", "malt2", "torchattacks:PGD(steps=2)"]
)
def test_the_callers_grad_mode_changes_nothing(mode: Callable[[], Any], attack: str) -> None:
    model, threat = trained(members=2), eb.ThreatModel(eps=0.1)
    x, y = images(6)
    plain = eb.attacks.get(attack)(model, x, y, threat)
    with mode():
        x, y = x + 0, y + 0
        assert torch.equal(eb.attacks.get(attack)(model, x, y, threat), plain)


def test_nor_does_it_change_an_evaluation() -> None:
    model = trained()
    plain = evaluated(model, "ifgsm2+apgd5")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert evaluated(model, "ifgsm2+apgd5").record.robust == plain.record.robust
    with torch.inference_mode(), pytest.raises(InvalidValueError, match=r"weights were made in torch.inference_mode"):
        evaluated(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


class Detached(nn.Module):
    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.call = perceptron(0), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.network, x)


@torch.no_grad()
def _no_grad(network: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = network(x)
    return out


@torch.inference_mode()
def _inference(network: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = network(x)
    return out


DETACHED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "no_grad": _no_grad,
    "inference_mode": _inference,
    "detach": lambda network, x: network(x.detach()),
    "numpy": lambda network, x: network(torch.from_numpy(x.numpy())),
}


@pytest.mark.parametrize("how", DETACHED)
def test_without_gradients_attacks_that_need_none_run_and_others_say_why_not(how: str) -> None:
    model = Detached(DETACHED[how])
    plain = evaluated(perceptron(0), "square50")
    assert evaluated(model, "square50").record.robust == plain.record.robust
    with pytest.raises(AttackError, match=r"^model: it has no gradient, which ifgsm5 need: .*square5000 needs none$"):
        evaluated(model, "square50+ifgsm5")


def test_a_model_with_too_few_logits_is_told_so() -> None:
    with pytest.raises(InvalidValueError, match="tells 1 classes apart, digits has labels up to 9"):
        evaluated(Wrapped(perceptron(0), lambda z, x: z[:, :1]))
