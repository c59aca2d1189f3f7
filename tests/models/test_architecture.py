import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from ensemble_bench.errors import CheckpointError, InvalidValueError, UnknownNameError
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build

DIGITS = Architecture(backbone="small_cnn", classes=10, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
CIFAR: dict[str, Any] = {"classes": 10, "image_shape": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
ALL = {
    "wrn": Architecture(backbone="wrn", depth=10, width=0.5, **CIFAR),
    "preact_resnet18": Architecture(backbone="preact_resnet18", width=0.125, **CIFAR),
    "vgg16_bn": Architecture(backbone="vgg16_bn", width=0.125, **CIFAR),
    "small_cnn": DIGITS,
    "vgg16_bn-8x8": replace(DIGITS, backbone="vgg16_bn", width=0.125),
    "wrn-8x8": replace(DIGITS, backbone="wrn", depth=10, width=0.5),
}


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    found: Architecture = request.param
    return found


def images(architecture: Architecture, batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, *architecture.image_shape, generator=torch.Generator().manual_seed(0))


def test_shapes_and_a_gradient_for_every_weight(architecture: Architecture) -> None:
    model, x = build(replace(architecture, members=2, classes=7)), images(architecture)
    assert model.training
    assert model(x).shape == (4, 7)
    assert model.member_logits(x).shape == (2, 4, 7)
    model(x)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_weights_follow_from_the_seed_alone(architecture: Architecture) -> None:
    first = build(replace(architecture, members=2), seed=5).state_dict()
    torch.manual_seed(123)
    again = build(replace(architecture, members=2), seed=5).state_dict()
    single = build(architecture, seed=5).state_dict()
    other = build(architecture, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(first[key], single[key]) for key in single)
    convolutions = [key for key in single if single[key].dim() == 4]
    assert convolutions
    for key in convolutions:
        assert not torch.equal(single[key], other[key])
        assert not torch.equal(first[key], first[key.replace("members.0", "members.1")])


def test_build_and_forward_leave_the_global_random_state(architecture: Architecture) -> None:
    before = torch.get_rng_state()
    model = build(replace(architecture, members=2, gated=True))
    model(images(architecture))
    assert torch.equal(torch.get_rng_state(), before)


def test_channels_last_equals_contiguous(architecture: Architecture) -> None:
    model, x = build(architecture).eval(), images(architecture)
    fast = model(x.contiguous(memory_format=torch.channels_last))
    slow = model.to(memory_format=torch.contiguous_format)(x)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_activations_stay_channels_last() -> None:
    model = build(ALL["wrn"]).eval()
    layouts: list[bool] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda _m, _i, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    model(images(ALL["wrn"]))
    assert layouts
    assert all(layouts)


def test_input_is_left_alone_and_every_image_stands_for_itself(architecture: Architecture) -> None:
    model, x = build(replace(architecture, members=2, gated=True)).eval(), images(architecture)
    kept = x.clone()
    together = model(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(together, torch.cat([model(x[i : i + 1]) for i in range(4)]), rtol=1e-4, atol=1e-5)


def test_autocast_gives_float32_near_the_float32_result(architecture: Architecture) -> None:
    model, x = build(architecture).eval(), images(architecture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model(x), rtol=0.1, atol=0.1)


def test_normalisation_is_inside_and_no_weight(architecture: Architecture) -> None:
    plain = replace(architecture, mean=(0.0,) * len(architecture.mean), std=(1.0,) * len(architecture.std))
    x = images(architecture)
    shape = (1, -1, 1, 1)
    normalised = (x - torch.tensor(architecture.mean).view(shape)) / torch.tensor(architecture.std).view(shape)
    torch.testing.assert_close(build(architecture).eval()(x), build(plain).eval()(normalised), rtol=1e-4, atol=1e-5)
    assert not any("normalise" in key for key in build(architecture).state_dict())


def test_convolutions_start_as_he_et_al() -> None:
    weight = build(Architecture(backbone="preact_resnet18", **CIFAR)).state_dict()[
        "members.0.network.stages.3.1.conv2.weight"
    ]
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert abs(weight.mean().item()) < 1e-4


def test_gate_starts_uniform_and_weights_sum_to_one() -> None:
    architecture = replace(DIGITS, members=3, gated=True)
    model, x = build(architecture).eval(), images(architecture)
    torch.testing.assert_close(model.log_gate(x).exp(), torch.full((3, 4, 1), 1 / 3))
    assert model.gate is not None
    torch.nn.init.normal_(model.gate.get_parameter("network.linear.weight"))
    weights = model.log_gate(x).exp()
    torch.testing.assert_close(weights.sum(0), torch.ones(4, 1))
    assert weights.std() > 0.01
    assert sum(p.numel() for p in model.gate.parameters()) < 6000


def test_dict_round_trip_through_json(architecture: Architecture) -> None:
    for made in (architecture, replace(architecture, members=3, gated=True, aggregation="logit")):
        assert Architecture.from_dict(json.loads(json.dumps(made.as_dict()))) == made


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backbone": "wnr"}, "did you mean wrn"),
        ({"backbone": 3}, "backbone is 3"),
        ({"depth": None}, "depth is None"),
        ({"depth": 11}, "6n \\+ 4"),
        ({"depth": 1000}, "from 10 to 100"),
        ({"backbone": "vgg16_bn"}, "fixed depth"),
        ({"width": 0}, "width is 0"),
        ({"width": float("nan")}, "width is nan"),
        ({"width": 10**400}, "width is 1000"),
        ({"width": True}, "width is True"),
        ({"classes": 1}, "classes is 1"),
        ({"classes": 10**9}, "classes is 1000000000"),
        ({"members": 0}, "members is 0"),
        ({"members": 2.0}, "members is 2.0"),
        ({"image_shape": [3, 32]}, "expected \\(channel, row, column\\)"),
        ({"image_shape": [3, 4, 4]}, "side is 4"),
        ({"image_shape": [3, 10**6, 10**6]}, "side is 1000000"),
        ({"mean": [0.5]}, "each of 3 channels"),
        ({"mean": [0.5, 0.5, 127.5]}, "mean is 127.5"),
        ({"std": [0.5, 0.5, 0]}, "std is 0"),
        ({"aggregation": "median"}, "unknown aggregation 'median'"),
        ({"gated": 1}, "gated is 1"),
        ({"gated": True}, "at least 2"),
        ({"dropout": 0.5}, "unknown keys dropout"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any], named: str) -> None:
    values = Architecture(backbone="wrn", depth=10, **CIFAR).as_dict() | changes
    with pytest.raises(CheckpointError, match=named) as caught:
        Architecture.from_dict(values)
    assert "\n" not in str(caught.value)


def test_missing_keys_and_direct_mistakes() -> None:
    values = DIGITS.as_dict()
    del values["std"], values["mean"]
    with pytest.raises(CheckpointError, match="lacks mean, std"):
        Architecture.from_dict(values)
    with pytest.raises(CheckpointError, match="expected an object"):
        Architecture.from_dict([1])  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        replace(DIGITS, backbone="resnet")
    with pytest.raises(InvalidValueError, match="width is -1"):
        replace(DIGITS, width=-1)
