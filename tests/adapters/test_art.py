"""ART on our models: gradients, metrics and certificates against closed forms, and no traces on the model."""

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art_models import SHAPE, FailsAt, classifier, one_hot, sgd, traces, untidy, with_numpy_seeded
from small_models import Linear, images, searched, trained, untrained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.errors import InvalidValueError


def log_mean(model: eb.Ensemble, x: Tensor) -> Tensor:
    """Log of the mean probability, without our aggregation."""
    return (sum(member(x).softmax(1) for member in model.members.children()) / len(model.members)).log()


# The classifier


def test_gradients_in_float64_are_those_of_the_log_mean_probability() -> None:
    model, (x, y) = trained(members=3).double(), images(12)
    x = x.double().requires_grad_()
    made = classifier(model)
    logits = log_mean(model, x)
    (wanted,) = torch.autograd.grad(-logits.gather(1, y[:, None]).mean(), x, retain_graph=True)
    given = x.detach().numpy()
    found = {
        "array": torch.from_numpy(made.loss_gradient(given, one_hot(y))),
        "tensor": made.loss_gradient(x.detach(), torch.from_numpy(one_hot(y))),
    }
    for gradient in found.values():
        assert gradient.dtype == torch.float64
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-14)
    for label in (0, 7):
        (of_class,) = torch.autograd.grad(logits[:, label].sum(), x, retain_graph=True)
        ours = torch.from_numpy(made.class_gradient(given, label)[:, 0])
        torch.testing.assert_close(ours, of_class, rtol=1e-6, atol=1e-14)


def test_predictions_are_log_probabilities_and_take_any_float() -> None:
    model, (x, _) = trained(members=2), images(30)
    made = classifier(model)
    assert made.clip_values == pytest.approx((0.0, 1.0))
    with torch.no_grad():
        wanted = log_mean(model, x)
    for dtype in (np.float32, np.float64):
        found = made.predict(x.numpy().astype(dtype), batch_size=8)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert made.predict(x[:0].numpy()).shape == (0, 10)


def test_mirrored_and_read_only_arrays_are_images_too() -> None:
    model, (x, y) = trained(members=2), images(6)
    made, mirrored = classifier(model), x.numpy()[..., ::-1]
    whole = np.ascontiguousarray(mirrored)
    whole.setflags(write=False)
    for ask in (
        made.predict,
        lambda array: made.loss_gradient(array, one_hot(y)),
        lambda array: made.class_gradient(array, 3),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(ask(mirrored), ask(whole.copy()))
            assert np.array_equal(ask(whole), ask(whole.copy()))


def test_the_shape_is_known_of_checkpoints_and_asked_for_otherwise(tmp_path: Path) -> None:
    from small_models import ARCHITECTURE

    from ensemble_bench.models import checkpoint
    from ensemble_bench.models.build import build

    checkpoint.save(tmp_path / "m.safetensors", build(ARCHITECTURE, seed=0), ARCHITECTURE, {})
    made = eb.adapters.art.classifier(eb.load(tmp_path / "m.safetensors"))
    assert (made.input_shape, made.nb_classes) == ((1, 8, 8), 10)
    with pytest.raises(InvalidValueError, match=r"input_shape.*nb_classes"):
        eb.adapters.art.classifier(trained())
    with pytest.raises(InvalidValueError, match="device is 'cuda:99': this machine has"):
        classifier(trained(), device="cuda:99")


def test_saved_weights_are_those_of_the_model(tmp_path: Path) -> None:
    model = trained(members=2)
    made = classifier(model)
    made.save("weights", str(tmp_path))
    saved = torch.load(tmp_path / "weights.model", weights_only=True)
    assert saved.keys() == model.state_dict().keys()
    other = untrained(2, seed=1).eval()
    classifier(other).model.load_state_dict(saved)
    assert torch.equal(other(images(5)[0]), model(images(5)[0]))


def test_importing_the_adapter_imports_nothing_of_art() -> None:
    code = "import ensemble_bench.adapters.art, sys; sys.exit('art' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_that_the_adapter_lacks() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Attack'"):
        eb.adapters.art.Attack  # noqa: B018


# No traces


def pgd(made: Any, x: Any, y: Any) -> Any:
    from art.attacks.evasion import ProjectedGradientDescent

    return ProjectedGradientDescent(made, eps=0.1, max_iter=3, verbose=False).generate(x, y)


def apgd(made: Any, x: Any, y: Any) -> Any:
    from art.attacks.evasion import AutoProjectedGradientDescent

    attack = AutoProjectedGradientDescent(made, eps=0.1, max_iter=3, nb_random_init=1, verbose=False)
    return with_numpy_seeded(lambda: attack.generate(x, y))


def clever(made: Any, x: Any, y: Any) -> Any:
    from art.metrics import clever_t

    target = (int(made.predict(x[:1]).argmax()) + 1) % 10
    return with_numpy_seeded(lambda: clever_t(made, x[0], target, 2, 2, radius=0.1, norm=2))


OPERATIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "predict": lambda made, x, y: made.predict(x, batch_size=4),
    "predict-training": lambda made, x, y: made.predict(x, batch_size=4, training_mode=True),
    "loss_gradient": lambda made, x, y: [made.loss_gradient(x, y) for _ in range(2)],
    "loss_gradient-training": lambda made, x, y: [made.loss_gradient(x, y, training_mode=True) for _ in range(2)],
    "class_gradient": lambda made, x, y: [made.class_gradient(x, label=3, training_mode=True) for _ in range(2)],
    "compute_loss": lambda made, x, y: [made.compute_loss(x, y) for _ in range(2)],
    "clever": clever,
    "pgd": pgd,
    "apgd": apgd,
    "engine": lambda made, x, y: eb.adapters.art.EngineAttack(made, "pgd5", eps=0.1).generate(x, y),
    "engine-predictions": lambda made, x, y: eb.adapters.art.EngineAttack(made, "mora5", eps=0.1).generate(x),
}


@pytest.mark.parametrize("trainable", [False, True], ids=["attacked", "trainable"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_traces_on_the_model_also_after_an_exception(name: str, trainable: bool) -> None:
    model, (x, y) = untidy(), images(8)
    optimizer = {"optimizer": sgd(model)} if trainable else {}
    before = traces(model)
    # ART's own attacks shuffle and load with torch's generator; what they draw is theirs.
    kept = slice(0, 4) if name in ("pgd", "apgd") else slice(None)
    OPERATIONS[name](classifier(model, **optimizer), x.numpy(), one_hot(y))
    assert traces(model)[kept] == before[kept]
    failing = FailsAt(model, 2).train()
    before = traces(failing)
    with pytest.raises(RuntimeError, match="out of order"):
        OPERATIONS[name](classifier(failing, **optimizer), x.numpy(), one_hot(y))
    assert failing.left == 0
    assert traces(failing)[kept] == before[kept]


def test_attacks_of_art_in_our_suites_leave_no_trace_either() -> None:
    model, (x, y) = untidy(), images(8)
    attack = eb.attacks.get("art:ProjectedGradientDescent(max_iter=3)")
    before = traces(model)
    attack.run(model, x, y, eb.ThreatModel(eps=0.1))
    assert traces(model) == before
    failing = FailsAt(model, 3).train()
    before = traces(failing)
    with pytest.raises(eb.errors.AttackError, match="RuntimeError: out of order"):
        searched(attack, failing, x, y, eb.ThreatModel(eps=0.1))
    assert traces(failing) == before


# Metrics


def line(seed: int = 0, classes: int = 2) -> tuple[eb.Ensemble, Linear, Tensor]:
    """An ensemble of one linear network on 4 x 4 images near the middle of the box, and twenty of these."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 16, generator=generator)
    linear = Linear(weight, -weight.sum(dim=1) / 2)
    return eb.Ensemble([linear]).eval(), linear, 0.45 + 0.1 * torch.rand(20, 1, 4, 4, generator=generator)


def linear_classifier(model: nn.Module, classes: int = 2) -> Any:
    return eb.adapters.art.classifier(model, input_shape=(1, 4, 4), nb_classes=classes)


def test_empirical_robustness_of_a_linear_model_is_its_distance_to_the_boundary() -> None:
    from art.metrics import empirical_robustness

    model, linear, x = line()
    gap = (linear(x)[:, 0] - linear(x)[:, 1]).abs().detach()
    step = 0.002
    nearest = gap / (linear.weight[0] - linear.weight[1]).abs().sum()
    taken = step * (nearest / step).ceil()
    wanted = (taken / x.flatten(1).amax(dim=1)).mean().item()
    found = empirical_robustness(linear_classifier(model), x.numpy(), "fgsm", {"eps_step": step, "eps": 0.4})
    assert found == pytest.approx(wanted, rel=1e-3)


def test_clever_of_a_linear_model_is_its_distance_to_the_boundary() -> None:
    from art.metrics import clever_t, clever_u

    model, linear, x = line(classes=3)
    made, logits = linear_classifier(model, classes=3), linear(x[:1])[0].detach()
    top = int(logits.argmax())
    distance = {
        j: ((logits[top] - logits[j]) / (linear.weight[top] - linear.weight[j]).norm()).item()
        for j in range(3)
        if j != top
    }
    for j, wanted in distance.items():
        found = with_numpy_seeded(lambda j=j: clever_t(made, x[0].numpy(), j, 5, 5, radius=1.0, norm=2))
        assert found == pytest.approx(wanted, rel=1e-3)
    found = with_numpy_seeded(lambda: clever_u(made, x[0].numpy(), 5, 5, radius=1.0, norm=2, verbose=False))
    assert found == pytest.approx(min(distance.values()), rel=1e-3)


def test_loss_metrics_of_an_ensemble() -> None:
    from art.metrics import loss_gradient_check, loss_sensitivity

    model, (x, y) = trained(members=2), images(16)
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(-log_mean(model, x).gather(1, y[:, None]).mean(), x)
    made, given = classifier(model), x.detach().numpy()
    assert loss_sensitivity(made, given, one_hot(y)) == pytest.approx(
        grad.flatten(1).norm(dim=1).mean().item(), rel=1e-4
    )
    assert not loss_gradient_check(made, given, one_hot(y), verbose=False).any()


def test_adversarial_accuracy_of_art_under_an_attack_of_ours() -> None:
    from art.metrics import adversarial_accuracy

    model, (x, y) = trained(members=2), images(60)
    made, attack = classifier(model), eb.attacks.get("margin20")
    # Without labels both attack the model's own predictions.
    predicted = model(x).argmax(dim=1)
    outcome = attack.run(model, x, predicted, eb.ThreatModel(eps=0.1))
    found = adversarial_accuracy(
        made, x.numpy(), y.numpy(), attack_crafter=eb.adapters.art.EngineAttack(made, "margin20", eps=0.1)
    )
    right = predicted == y
    assert found == pytest.approx((~outcome.broken[right]).double().mean().item())
    assert 0.1 < found < 0.9


# Certificates


def test_certified_radii_of_a_linear_model_reach_to_the_boundary_and_never_beyond() -> None:
    from scipy.stats import beta

    model, linear, x = line(seed=1)
    scale, alpha, n = 0.03, 0.01, 2000
    made = eb.adapters.art.smoothed_classifier(
        model, scale=scale, alpha=alpha, input_shape=(1, 4, 4), nb_classes=2, sample_size=200
    )
    # Noise along the normal is all that matters: the smoothed classifier of a linear one has the same boundary.
    gap = linear(x) @ torch.tensor([1.0, -1.0])
    distance = (gap.abs() / (linear.weight[0] - linear.weight[1]).norm()).detach().numpy()
    classes, radii = with_numpy_seeded(lambda: made.certify(x.numpy(), n=n, batch_size=n))
    certified = classes >= 0
    assert certified.mean() > 0.7
    np.testing.assert_array_equal(classes[certified], linear(x).argmax(dim=1).numpy()[certified])
    assert (radii <= distance).all()
    probability = np.array([0.5 + math.erf(d / scale / math.sqrt(2)) / 2 for d in distance])
    reach = scale * torch.special.ndtri(torch.from_numpy(beta.ppf(alpha, probability * n, (1 - probability) * n + 1)))
    inner = certified & (distance < 2 * scale)
    np.testing.assert_allclose(radii[inner], reach.numpy()[inner], atol=0.1 * scale)
    assert inner.sum() > 5


def test_the_bound_on_a_share_is_that_of_clopper_and_pearson() -> None:
    """The largest p under which k or more of n would be a surprise of alpha: summed, not inverted."""
    made = eb.adapters.art.smoothed_classifier(trained(), scale=0.1, alpha=0.02, **SHAPE)
    for k, n in ((5, 9), (40, 50), (99, 100)):
        p = made._lower_confidence_bound(k, n)
        tail = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
        assert tail == pytest.approx(0.02, rel=1e-6)


def test_a_smoothed_ensemble_predicts_certifies_and_leaves_no_trace() -> None:
    model, (x, y) = untidy(), images(12)
    made = eb.adapters.art.smoothed_classifier(model, scale=0.1, sample_size=40, **SHAPE)
    before = traces(model)
    classes, radii = with_numpy_seeded(lambda: made.certify(x.numpy(), n=100))
    voted = with_numpy_seeded(lambda: made.predict(x.numpy()))
    grad = made.loss_gradient(x.numpy(), one_hot(y))
    assert traces(model) == before
    assert ((classes >= 0) == (radii > 0)).all()
    assert (classes == y.numpy()).sum() >= 8
    assert (voted.argmax(axis=1) == y.numpy()).sum() >= 8
    np.testing.assert_array_equal(grad, classifier(model).loss_gradient(x.numpy(), one_hot(y)))
