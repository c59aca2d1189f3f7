"""Our attacks as an evasion attack of ART: what they return is what they return when called directly."""

from typing import Any

import numpy as np
import pytest
import torch
from art_models import classifier, one_hot, traces, untidy
from small_models import Wrapped, images, trained
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.errors import InvalidValueError, UnknownNameError

EngineAttack = eb.adapters.art.EngineAttack


def foreign(model: nn.Module, **settings: Any) -> Any:
    """A classifier that other people made."""
    from art.estimators.classification import PyTorchClassifier

    plain = {"input_shape": (1, 8, 8), "nb_classes": 10, "clip_values": (0, 1), "device_type": "cpu"}
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), **{**plain, **settings})


class Shifted(nn.Module):
    """A network that expects its images less a mean, over a deviation."""

    def __init__(self, model: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x * self.std + self.mean)
        return logits


@pytest.mark.parametrize(
    ("name", "norm", "ours"),
    [
        ("mora10", np.inf, "linf"),
        ("margin10", "inf", "linf"),
        ("bypass5", 2, "l2"),
        ("apgd-t5", 2.0, "l2"),
        ("square30", np.inf, "linf"),
    ],
)
def test_the_same_images_as_the_attack_itself(name: str, norm: Any, ours: str) -> None:
    model, (x, y) = trained(members=2), images(24)
    threat = eb.ThreatModel(norm=ours, eps=0.12)
    wanted = eb.attacks.get(name)(model, x, y, threat, seed=4, batch_size=16)
    for made, labels in ((classifier(model), y.numpy()), (foreign(model), one_hot(y))):
        attack = EngineAttack(made, attack=name, eps=0.12, norm=norm, batch_size=16, seed=4)
        found = attack.generate(x.numpy(), labels)
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted.numpy())
    assert not torch.equal(wanted, x)


def test_members_count_through_the_view_and_not_in_a_foreign_network() -> None:
    """MORA reweighs members: it finds other images where it sees but one network."""
    model, (x, y) = trained(members=2), images(24)
    alone = Wrapped(model, lambda logits, _: logits)
    threat = eb.ThreatModel(eps=0.05)
    seen = EngineAttack(classifier(model), "mora10", eps=0.05).generate(x.numpy(), y.numpy())
    hidden = EngineAttack(foreign(alone), "mora10", eps=0.05).generate(x.numpy(), y.numpy())
    assert np.array_equal(seen, eb.attacks.get("mora10")(model, x, y, threat).numpy())
    assert np.array_equal(hidden, eb.attacks.get("mora10")(alone, x, y, threat).numpy())
    assert not np.array_equal(seen, hidden)


def test_without_labels_the_predictions_are_changed() -> None:
    model, (x, _) = trained(members=2), images(40)
    predicted = model(x).argmax(dim=1)
    found = EngineAttack(classifier(model), "pgd10", eps=0.3).generate(x.numpy())
    assert np.array_equal(
        found, EngineAttack(classifier(model), "pgd10", eps=0.3).generate(x.numpy(), predicted.numpy())
    )
    assert (model(torch.from_numpy(found)).argmax(dim=1) != predicted).double().mean() > 0.9


def test_an_attack_with_settings_takes_the_place_of_a_name() -> None:
    model, (x, y) = trained(members=2), images(8)
    attack = eb.attacks.get("ifgsm3", stop_early=False, random_start=False)
    found = EngineAttack(classifier(model), attack, eps=0.1).generate(x.numpy(), y.numpy())
    assert np.array_equal(found, attack(model, x, y, eb.ThreatModel(eps=0.1)).numpy())


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_the_precision_of_the_array_is_kept(dtype: Any) -> None:
    model, (x, y) = trained(members=2), images(8)
    x_half = x.numpy().astype(dtype)
    found = EngineAttack(classifier(model), "pgd5", eps=0.1).generate(x_half[:, :, ::-1], y.numpy())
    assert found.dtype == dtype
    assert np.abs(found - x_half[:, :, ::-1]).max() <= 0.1 + 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_attacked_as_by_the_attack_itself(dtype: torch.dtype) -> None:
    model, (x, y) = trained(members=2).to(dtype), images(8)
    found = EngineAttack(classifier(model), "ifgsm5", eps=0.1).generate(x.numpy(), y.numpy())
    assert found.dtype == np.float32
    wanted = eb.attacks.get("ifgsm5")(model, x, y, eb.ThreatModel(eps=0.1))
    assert np.array_equal(found, wanted.numpy())
    assert not torch.equal(wanted, x)


def test_preprocessing_in_torch_is_attacked_through() -> None:
    from art.defences.preprocessor import SpatialSmoothing

    model, (x, y) = trained(members=2), images(16)
    mean, std = 0.3, 0.6
    made = foreign(Shifted(model, mean, std), preprocessing=(mean, std))
    found = EngineAttack(made, "margin10", eps=0.1).generate(x.numpy(), y.numpy())
    # Subtracting and dividing, then undoing it, is the model itself, up to rounding.
    wanted = eb.attacks.get("margin10")(model, x, y, eb.ThreatModel(eps=0.1))
    assert made.predict(x.numpy()) == pytest.approx(model(x).detach().numpy(), abs=1e-4)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    with pytest.raises(InvalidValueError, match=r"SpatialSmoothing.*: expected operations written in PyTorch"):
        EngineAttack(foreign(model, preprocessing_defences=SpatialSmoothing()), "pgd5")


def test_what_is_out_of_range() -> None:
    made, (x, y) = classifier(trained()), images(4)
    with pytest.raises(UnknownNameError, match="unknown attack 'moar100': did you mean"):
        EngineAttack(made, "moar100")
    with pytest.raises(InvalidValueError, match=r"norm is 1: choose np\.inf or 2"):
        EngineAttack(made, norm=1)
    with pytest.raises(InvalidValueError, match="eps is 8"):
        EngineAttack(made, eps=8)
    with pytest.raises(InvalidValueError, match="batch_size is 0"):
        EngineAttack(made, batch_size=0)
    with pytest.raises(InvalidValueError, match="eps is -1"):
        EngineAttack(made).set_params(eps=-1)
    for clip in ((0, 255), None):
        with pytest.raises(InvalidValueError, match=r"clip_values of the estimator are .*: expected \(0, 1\)"):
            EngineAttack(foreign(trained(), clip_values=clip))
    attack = EngineAttack(made, "pgd2")
    for wrong in (x.numpy() * 255, x.numpy() - 1):
        with pytest.raises(InvalidValueError, match=r"images span .*: expected values in \[0, 1\]"):
            attack.generate(wrong, y.numpy())
    for wrong in (np.zeros((4, 1, 8, 8), np.uint8), np.zeros((4, 3, 8, 8), np.float32), np.zeros((8, 8))):
        with pytest.raises(InvalidValueError, match=r"x is .* of shape .*: expected floating point of shape \('n', 1,"):
            attack.generate(wrong, y.numpy())
    for wrong in (y.numpy() + 10, y.numpy() + 0.5, np.ones((4, 10)), np.array(list("abcd"))):
        with pytest.raises(InvalidValueError, match=r"y is .*: expected classes 0 to 9, or one-hot rows"):
            attack.generate(x.numpy(), wrong)
    with pytest.raises(InvalidValueError, match="4 images, 3 labels"):
        attack.generate(x.numpy(), y.numpy()[:3])


def test_a_foreign_classifier_is_left_as_found() -> None:
    model, (x, y) = untidy(), images(6)
    made = foreign(model, preprocessing=(0.1, 0.9))
    made._model.train()
    model.members[1].eval()
    before = traces(made._model)
    EngineAttack(made, "pgd3", eps=0.1).generate(x.numpy(), y.numpy())
    EngineAttack(made, "pgd3", eps=0.1).generate(x.numpy())
    assert traces(made._model) == before
    with pytest.raises(InvalidValueError):
        EngineAttack(made, "pgd3", eps=0.1).generate(x.numpy() + 9, y.numpy())
    assert traces(made._model) == before


def test_answers_that_are_not_the_networks_own_are_not_attacked_in_its_place() -> None:
    """Randomized smoothing votes over noise, of which an attack on the network would know nothing."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    shape = {"input_shape": (1, 8, 8), "nb_classes": 10}
    theirs = PyTorchRandomizedSmoothing(trained(), nn.CrossEntropyLoss(), clip_values=(0, 1), **shape)
    for made in (eb.adapters.art.smoothed_classifier(trained(), scale=0.1, sample_size=2, **shape), theirs):
        with pytest.raises(InvalidValueError, match=rf"estimator is a {type(made).__name__}, whose answers"):
            EngineAttack(made, attack="pgd5")
