"""Every way in which a model comes in, from Python and toolkits: what no verdict can rest on is refused at each."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod
from small_models import Wrapped, images, perceptron, recorded, trained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.adapters import art, autoattack, robustbench
from ensemble_bench.adapters import torchattacks as ours
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.evaluation.diagnostics import diagnose
from ensemble_bench.models import entry
from ensemble_bench.models.entry import entered_once
from ensemble_bench.training import trainer
from ensemble_bench.training.validation import validate

THREAT = eb.ThreatModel(eps=0.1)
X, Y = images(8)
SHAPE = {"input_shape": (1, 8, 8), "nb_classes": 10}


def centred() -> nn.Module:
    """Logits less their mean over the batch."""
    return Wrapped(perceptron(0), lambda z, x: z - z.mean(0)).eval()


def fitted(model: nn.Module) -> None:
    estimator = art.classifier(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **SHAPE)
    art.EnsembleTrainer(estimator).fit(X.numpy(), Y.numpy(), nb_epochs=1, batch_size=4)


def validated(model: nn.Module) -> None:
    data = eb.data.open_source("digits").split("validation").first(8)
    validate(model, data, THREAT, seed=0, precision="float32", device=torch.device("cpu"))


ENTRANCES: dict[str, Callable[[nn.Module], object]] = {
    "evaluate": lambda m: eb.evaluate(m, dataset="digits", suite="ifgsm1", n=8),
    "an attack": lambda m: eb.attacks.get("ifgsm1")(m, X, Y, THREAT),
    "an attack of a toolkit": lambda m: eb.attacks.get("torchattacks:FGSM")(m, X, Y, THREAT),
    "diagnose": lambda m: diagnose(eb.Ensemble([perceptron(1), m]), dataset="digits", n=8, attack="margin1"),
    "validation": validated,
    "torchattacks' attack": lambda m: torchattacks.FGSM(ours.module(m))(X, Y),
    "our attack in torchattacks": lambda m: ours.EngineAttack(m, "ifgsm1")(X, Y),
    "ART's attack": lambda m: FastGradientMethod(art.classifier(m, **SHAPE)).generate(X.numpy()),
    "our attack in ART": lambda m: art.EngineAttack(art.classifier(m, **SHAPE), "ifgsm1").generate(X.numpy()),
    "our training in ART": fitted,
    "smoothing in ART": lambda m: art.smoothed_classifier(m, scale=0.1, sample_size=2, **SHAPE).predict(X.numpy()),
    "RobustBench": lambda m: robustbench.benchmark(m, dataset="digits", n=8),
    "AutoAttack": lambda m: autoattack.pyautoattack_standard(m, X, Y, THREAT),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: eb.Ensemble([perceptron(1), m])], ids=["alone", "member"])
def test_a_model_that_depends_on_its_batch_is_refused_at_every_entrance(
    entrance: str, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    with pytest.raises(AttackError, match="depends on the other images of its batch") as told:
        ENTRANCES[entrance](wrap(centred()))
    assert "\n" not in str(told.value)


def test_so_is_a_network_that_is_to_be_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build = trainer.build

    def built(*args: Any, **settings: Any) -> eb.Ensemble:
        return eb.Ensemble([Wrapped(build(*args, **settings), lambda z, x: z - z.mean(0))])

    monkeypatch.setattr(trainer, "build", built)
    monkeypatch.setattr(trainer, "algorithm1", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(AttackError, match="depends on the other images of its batch"):
        eb.train("baseline", dataset="digits", preset="tiny", out=tmp_path / "run")


def test_probabilities_and_scales_are_put_right_for_an_attack_that_is_called_directly() -> None:
    plain = eb.attacks.get("margin10").run(perceptron(0), X, Y, THREAT)
    for change in (lambda z, x: (300 * z).softmax(1), lambda z, x: 1e6 * z, lambda z, x: 1e-7 * z):
        found = eb.attacks.get("margin10").run(Wrapped(perceptron(0), change), X, Y, THREAT)
        assert torch.equal(found.broken, plain.broken)
        assert found.zero_gradients == 0
    # What torchattacks sees of saturated probabilities has gradients too; ART's attacks may want what the model gives.
    x = X.clone().requires_grad_()
    saturated = Wrapped(perceptron(0), lambda z, x: (300 * z).softmax(1))
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(ours.module(saturated)(x), (Y + 1) % 10), x)
    assert (grad.flatten(1) != 0).any(dim=1).all()
    assert art.classifier(saturated, **SHAPE).predict(X.numpy()).min() >= 0


def test_a_randomised_model_is_broken_where_most_draws_are_wrong() -> None:
    """Of two members of opposite answers a third one decides; a single draw is wrong on half of all calls."""
    right = perceptron(0)
    opposite = Wrapped(right, lambda z, x: -z)
    model = eb.Ensemble([right, right, opposite], aggregation="draw")
    nowhere = eb.ThreatModel(eps=1e-6)
    found = eb.attacks.get("ifgsm2").run(model, X, Y, nowhere)
    assert torch.equal(found.broken, right(X).argmax(1) != Y)
    noisy = Wrapped(right, lambda z, x: torch.where(torch.rand(len(z), 1) < 0.2, -z, z))
    assert torch.equal(eb.attacks.get("ifgsm2").run(noisy, X, Y, nowhere).broken, right(X).argmax(1) != Y)


# Asked once


def test_a_model_is_asked_once_and_again_only_when_it_changed() -> None:
    model = trained()
    attack = eb.attacks.get("ifgsm1", random_start=False)
    counts = []
    for change in (None, None, None, lambda: nn.init.normal_(next(model.parameters())), None):
        if change is not None:
            change()
        with recorded(model) as calls:
            attack(model, X, Y, THREAT)
        counts.append(len(calls))
    first, again, third, changed, last = counts
    assert first == changed > 20 > again == third == last


def test_what_is_remembered_keeps_no_model_alive() -> None:
    before = len(entry._KNOWN)
    for seed in (0, 1):
        entered_once(Wrapped(perceptron(seed), lambda z, x: z.softmax(1)), X)
    gc.collect()
    assert len(entry._KNOWN) <= before


def test_what_there_is_to_say_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def odd(z: Tensor, x: Tensor) -> Tensor:
        return (z + 0.1 * torch.randn_like(z)).softmax(1)

    model = Wrapped(perceptron(0), odd)
    with caplog.at_level(logging.WARNING, logger="ensemble_bench"):
        for _ in range(3):
            eb.attacks.get("ifgsm1")(model, X, Y, THREAT)
            nn.init.normal_(next(model.parameters()))
    said = [record.getMessage().split(": ")[1] for record in caplog.records]
    assert sorted(said) == ["probabilities-not-logits", "randomised"]


class Answering:
    """No module: an object that is called with images, and whose answer has logits."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.network(x), hidden_states=None)


TRAINING = ("our training in ART", "validation")
LONG = ("RobustBench", "AutoAttack")  # both are AutoAttack, whose 5,000 queries an image take their time


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name not in (*TRAINING, *LONG)])
def test_functions_and_objects_with_logits_are_taken_at_every_entrance(entrance: str) -> None:
    network = perceptron(0).train()
    for model in (Answering(network), lambda x: network(x), network.forward):
        ENTRANCES[entrance](model)  # type: ignore[arg-type]
        assert network.training
        assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_they_are_attacked_as_their_network_is() -> None:
    network = perceptron(0).eval()
    attack = eb.attacks.get("pgd5")
    expected = attack(network, X, Y, THREAT)
    assert torch.equal(attack(Answering(network), X, Y, THREAT), expected)  # type: ignore[arg-type]
    pair = eb.Ensemble([Answering(network), perceptron(1).eval()])  # type: ignore[list-item]
    assert sum(p.numel() for p in pair.parameters()) == 2 * sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name not in TRAINING])
@pytest.mark.parametrize("model", [None, 3, "run", nn.Linear, [perceptron(0)]], ids=str)
def test_what_is_no_model_is_refused_at_every_entrance(entrance: str, model: object) -> None:
    with pytest.raises(InvalidValueError, match=r"(model|member|of it)"):
        ENTRANCES[entrance](model)  # type: ignore[arg-type]
