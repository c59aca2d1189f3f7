"""ART's trainers on our ensembles, and our training as one of ART's."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from art_models import classifier, one_hot, sgd, with_numpy_seeded
from small_models import ARCHITECTURE, Linear
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.data import DataSource
from ensemble_bench.errors import AttackError, InvalidValueError, UnknownNameError
from ensemble_bench.models.build import build
from ensemble_bench.training import schedule
from ensemble_bench.training.batches import order

EPS = 0.1
EnsembleTrainer = eb.adapters.art.EnsembleTrainer


def untrained() -> eb.Ensemble:
    from dataclasses import replace

    return build(replace(ARCHITECTURE, members=2), seed=0).eval()


@pytest.fixture(scope="module")
def arrays(digits: DataSource) -> tuple[Any, Tensor]:
    x, y = digits.split("train").batch(slice(None))
    return x.numpy(), y


def blocks(n: int) -> tuple[Tensor, Tensor]:
    """Images that any training tells apart, also under attack: of each class other six pixels are six eps brighter."""
    y = torch.arange(n) % 10
    return (0.2 + 6 * EPS * BRIGHT[y]).view(n, 1, 8, 8), y


BRIGHT = torch.eye(10).repeat_interleave(6, dim=1)
BRIGHT = torch.cat([BRIGHT, torch.zeros(10, 4)], dim=1)


def contrary() -> eb.Ensemble:
    """Linear members that are wrong about every image of `blocks`."""
    return eb.Ensemble([Linear(-0.01 * scale * BRIGHT, torch.zeros(10)) for scale in (1, 2)]).eval()


def robust_accuracy(made: Any) -> float:
    x, y = blocks(50)
    x_adv = eb.adapters.art.EngineAttack(made, "pgd10", eps=EPS).generate(x.numpy(), y.numpy())
    return float((made.predict(x_adv).argmax(axis=1) == y.numpy()).mean())


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ART's trainers


def test_a_step_of_fit_is_a_step_on_minus_log_mean_probability(arrays: tuple[Any, Tensor]) -> None:
    x, y = arrays[0][:32], arrays[1][:32]
    model = untrained().double().eval()
    reference = copy.deepcopy(model).train()
    mean = sum(member(torch.from_numpy(x).double()).softmax(1) for member in reference.members) / 2
    loss = -mean.gather(1, y[:, None]).log().mean()
    grads = torch.autograd.grad(loss, list(reference.parameters()))
    before = weights(model)
    classifier(model, optimizer=sgd(model, lr=1.0, momentum=0)).fit(x, one_hot(y), batch_size=32, nb_epochs=1)
    wanted = torch.cat([grad.flatten() for grad in grads])
    torch.testing.assert_close(before - weights(model), wanted, rtol=1e-6, atol=1e-12)
    assert not any(module.training for module in model.modules())
    for name, buffer in reference.named_buffers():  # batch statistics, moved by one pass in train mode
        torch.testing.assert_close(buffer, model.get_buffer(name))


def trained_by_art(kind: str) -> Any:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences import trainer as art

    x, y = blocks(320)[0].numpy(), one_hot(blocks(320)[1])
    model, other = contrary(), contrary()
    made = classifier(model, optimizer=sgd(model, lr=0.2 if kind in ("plain", "madry", "engine") else 0.05))
    proxy = classifier(other, optimizer=sgd(other, lr=0.01))
    attack = ProjectedGradientDescent(made, eps=EPS, eps_step=0.05, max_iter=3, verbose=False)
    ours = eb.adapters.art.EngineAttack(made, eb.attacks.get("ifgsm3", stop_early=False), eps=EPS)
    trainers = {
        "plain": lambda: art.AdversarialTrainer(made, attack, ratio=0.5),
        "engine": lambda: art.AdversarialTrainer(made, ours, ratio=0.5),
        "madry": lambda: art.AdversarialTrainerMadryPGD(made, eps=EPS, eps_step=0.05, max_iter=3),
        "trades": lambda: art.AdversarialTrainerTRADESPyTorch(made, attack, beta=3.0),
        "awp": lambda: art.AdversarialTrainerAWPPyTorch(made, proxy, attack, "PGD", 0.005, 3.0, 0),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with_numpy_seeded(lambda: trainers[kind]().fit(x, y, nb_epochs=2, batch_size=64))
    assert not any(module.training for module in model.modules())
    return made


@pytest.mark.parametrize("kind", ["plain", "engine", "madry", "trades", "awp"])
def test_trainers_of_art_make_an_ensemble_robust(kind: str) -> None:
    assert robust_accuracy(classifier(contrary())) == 0
    assert robust_accuracy(trained_by_art(kind)) == 1


def test_what_cannot_train(arrays: tuple[Any, Tensor]) -> None:
    from art.defences.trainer import AdversarialTrainerFBFPyTorch

    x, y = arrays[0][:64], one_hot(arrays[1][:64])
    made = classifier(untrained())
    for train in (lambda: made.fit(x, y), made.reset, lambda: EnsembleTrainer(made)):
        with pytest.raises(InvalidValueError, match=r"no optimizer .* classifier\(model, optimizer=…\)"):
            train()
    with pytest.raises(InvalidValueError, match="the optimizer holds parameters that are not the model's"):
        classifier(untrained(), optimizer=sgd(untrained()))
    model = untrained()
    with pytest.raises(RuntimeError, match="does not require grad"):  # it steps in eval mode: see docs/toolkits-art.md
        AdversarialTrainerFBFPyTorch(classifier(model, optimizer=sgd(model)), eps=EPS).fit(x, y, nb_epochs=1)


def test_a_clone_starts_again_and_leaves_the_model_alone() -> None:
    model = untrained()
    before = weights(model)
    clone = classifier(model, optimizer=sgd(model)).clone_for_refitting()
    assert not torch.equal(weights(clone.model.model), before)
    started = weights(clone.model.model)
    x, y = blocks(40)
    clone.fit(x.numpy(), one_hot(y), batch_size=20, nb_epochs=1)
    assert not torch.equal(weights(clone.model.model), started)
    assert torch.equal(weights(model), before)


def test_modes_are_put_back_when_training_fails(arrays: tuple[Any, Tensor]) -> None:
    model = untrained()
    model.members[1].train()
    modes = [module.training for module in model.modules()]
    made = classifier(model, optimizer=sgd(model))
    with pytest.raises(RuntimeError, match="expected input"):
        made.fit(arrays[0][:8].repeat(2, axis=1), one_hot(arrays[1][:8]))
    assert [module.training for module in model.modules()] == modes
    assert not made.model.training
    broken = sgd(model)
    broken.step = lambda: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        EnsembleTrainer(classifier(model, optimizer=broken)).fit(arrays[0][:8], arrays[1][:8].numpy(), batch_size=8)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())


# Ours


def test_a_step_is_algorithm_1_by_hand(arrays: tuple[Any, Tensor]) -> None:
    model, y = untrained(), arrays[1][:32]
    reference = copy.deepcopy(model)
    optimizer = sgd(reference)
    rows = order(32, 5, 0)
    x, y = torch.from_numpy(arrays[0])[rows], y[rows]

    def loss(images: Tensor) -> Tensor:
        mean = sum(member(images).softmax(1) for member in reference.members) / 2
        return -mean.gather(1, y[:, None]).log().mean()

    x_adv = x
    for _ in range(7):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x_adv), x_adv)
        x_adv = (x_adv + EPS / 4 * grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1).detach()
    reference.train()
    (0.5 * (loss(x) + loss(x_adv))).backward()
    optimizer.step()
    trainer = EnsembleTrainer(
        classifier(model, optimizer=sgd(model)), eps=EPS, train_attack="ifgsm7", attack_start="none", seed=5
    )
    trainer.fit(arrays[0][:32], one_hot(arrays[1][:32]), nb_epochs=1, batch_size=32)
    torch.testing.assert_close(weights(model), weights(reference), rtol=0, atol=1e-6)
    assert not torch.allclose(weights(model), weights(untrained()), atol=1e-4)


def test_the_weights_are_those_of_our_own_trainer(
    arrays: tuple[Any, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same data, seed and constant rate, to the last bit."""
    monkeypatch.setitem(schedule.SCHEDULES, "cyclic", lambda step, steps: 0.25)  # type: ignore[index]
    per_epoch = len(arrays[0]) // 128
    out = eb.train("ensemble2adv", seed=3, out=tmp_path / "run", max_steps=2 * per_epoch, eps=EPS, device="cpu")
    wanted = eb.load(out / "last.safetensors")
    assert wanted.info is not None
    model = build(wanted.info.architecture, seed=3).eval()
    rate = 0.25 * wanted.info.meta["settings"]["learning_rate"]
    made = classifier(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4))
    trainer = EnsembleTrainer(made, eps=EPS, train_attack="nfgsm", seed=3)
    for _ in range(2):  # two calls go on as one
        trainer.fit(arrays[0], arrays[1].numpy(), nb_epochs=1, batch_size=128)
    assert torch.equal(weights(model), weights(wanted))
    assert not torch.allclose(weights(model), weights(build(wanted.info.architecture, seed=3)), atol=1e-2)
    assert trainer.get_classifier() is trainer.classifier is made


def test_it_makes_an_ensemble_robust() -> None:
    model, (x, y) = contrary(), blocks(320)
    made = classifier(model, optimizer=sgd(model))
    assert robust_accuracy(made) == 0
    EnsembleTrainer(made, eps=EPS, train_attack="ifgsm3").fit(x.numpy(), y.numpy(), nb_epochs=2, batch_size=64)
    assert robust_accuracy(made) == 1


def test_the_weights_depend_on_the_seed_alone(arrays: tuple[Any, Tensor]) -> None:
    def run(seed: int, global_seed: int) -> Tensor:
        model = untrained()
        trainer = EnsembleTrainer(classifier(model, optimizer=sgd(model)), eps=EPS, train_attack="nfgsm", seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            trainer.fit(arrays[0][:64], arrays[1][:64].numpy(), nb_epochs=2, batch_size=32)
            assert torch.equal(torch.get_rng_state(), before)
        return weights(model)

    found = run(0, 0)
    assert torch.equal(run(0, 1), found)
    assert not torch.equal(run(1, 0), found)


def test_the_scheduler_takes_a_step_an_epoch(arrays: tuple[Any, Tensor]) -> None:
    model = untrained()
    optimizer = sgd(model, lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    trainer = EnsembleTrainer(classifier(model, optimizer=optimizer), eps=EPS, train_attack="ifgsm1")
    trainer.fit(arrays[0][:40], arrays[1][:40].numpy(), nb_epochs=3, batch_size=16, scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"eps": 8}, InvalidValueError, "eps is 8"),
        ({"norm": 1}, InvalidValueError, "norm is 1"),
        ({"train_attack": "pgd7"}, UnknownNameError, "unknown training attack 'pgd7'"),
        ({"objective": "members-mean"}, UnknownNameError, "unknown objective 'members-mean': did you mean member-mean"),
        (
            {"attack_start": "unifrom"},
            InvalidValueError,
            "attack_start is 'unifrom': choose from gaussian, uniform, none",
        ),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    model = untrained()
    with pytest.raises(error, match=message):
        EnsembleTrainer(classifier(model, optimizer=sgd(model)), **settings)


def test_arrays_out_of_range(arrays: tuple[Any, Tensor]) -> None:
    x, y = arrays[0][:20], arrays[1][:20].numpy()
    model = untrained()
    made = classifier(model, optimizer=sgd(model))
    before, trainer = weights(model), EnsembleTrainer(made, eps=EPS)
    for x_wrong, y_wrong, message in (
        (x * 16, y, r"images span .*: expected values in \[0, 1\]"),
        (x[:, :, :4], y, r"expected floating point of shape \('n', 1, 8, 8\)"),
        (x, y + 5, "expected classes 0 to 9, or one-hot rows"),
        (x, y[:10], "20 images, 10 labels"),
        (x, y, "batch_size is 128: choose 2 to 20"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            trainer.fit(x_wrong, y_wrong)
    for sizes, message in (
        ({"nb_epochs": 0}, "nb_epochs is 0: choose 1 or more"),
        ({"nb_epochs": 1.5}, "nb_epochs is 1.5: choose a whole number"),
        ({"batch_size": 4.0}, "batch_size is 4.0: choose a whole number"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            trainer.fit(x, y, **{"batch_size": 4, **sizes})
    for crop in (-1, 15, 1.5):
        with pytest.raises(InvalidValueError, match=f"crop is {crop}: choose .*0 to 14"):
            EnsembleTrainer(made, crop=crop).fit(x, y, batch_size=4)
    for dtype in (torch.float64, torch.bfloat16):
        other = untrained().to(dtype)
        with pytest.raises(InvalidValueError, match=f"network is {dtype}: only torch.float32 can be trained"):
            EnsembleTrainer(classifier(other, optimizer=sgd(other)))
    assert torch.equal(weights(model), before)
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    made = classifier(single, optimizer=sgd(single))
    with pytest.raises(InvalidValueError, match="objective is 'adp': the classifier's network has no members"):
        EnsembleTrainer(made, objective="adp")
    EnsembleTrainer(made, eps=EPS, train_attack="ifgsm2").fit(x, y, nb_epochs=1, batch_size=10)  # any network learns
    diverging = classifier(single, optimizer=sgd(single, lr=float("inf")))
    with pytest.raises(AttackError, match="training diverged: the loss of step 2 is nan"):
        EnsembleTrainer(diverging, eps=EPS, train_attack="nfgsm").fit(x, y, nb_epochs=2, batch_size=20)
