import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.cost import flops, match_width, parameters
from ensemble_bench.models.ensemble import Ensemble

CIFAR: dict[str, Any] = {"classes": 10, "image_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
DIGITS: dict[str, Any] = {"classes": 10, "image_shape": (1, 8, 8), "mean": (0.3,), "std": (0.4,)}
WRN_28_10 = Architecture(backbone="wrn", depth=28, width=10, **CIFAR)
WRN_10_1 = Architecture(backbone="wrn", depth=10, width=1, **CIFAR)
SMALL = Architecture(backbone="small_cnn", **DIGITS)


@pytest.mark.parametrize(
    ("architecture", "millions", "gmacs"),
    [
        (WRN_28_10, 36.5, 5.25),  # Zagoruyko & Komodakis 2016, Table 4
        (replace(WRN_28_10, depth=16, width=8), 11.0, None),
        (replace(WRN_28_10, depth=40, width=4), 8.9, None),
        (Architecture(backbone="preact_resnet18", **CIFAR), 11.17, 0.556),
        (Architecture(backbone="vgg16_bn", **CIFAR), 14.72, 0.313),
    ],
    ids=lambda value: f"{value.backbone}-{value.depth}" if isinstance(value, Architecture) else None,
)
def test_published_counts(architecture: Architecture, millions: float, gmacs: float | None) -> None:
    assert parameters(architecture) / 1e6 == pytest.approx(millions, abs=0.05)
    if gmacs is not None:
        assert flops(architecture) / 2e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize("backbone", ["wrn", "preact_resnet18", "vgg16_bn", "small_cnn"])
def test_flops_agree_with_torchs_own_counter(backbone: str) -> None:
    data = DIGITS if backbone == "small_cnn" else CIFAR
    architecture = Architecture(backbone=backbone, depth=10 if backbone == "wrn" else None, width=0.25, **data)
    model = build(architecture).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *architecture.image_shape))
    assert flops(architecture) == flops(model, architecture.image_shape) == counter.get_total_flops()


def test_ensembles_cost_the_sum_of_their_members() -> None:
    four = replace(WRN_10_1, members=4)
    assert parameters(four) == 4 * parameters(WRN_10_1)
    assert flops(four) == 4 * flops(WRN_10_1)
    gated = replace(SMALL, members=2, gated=True)
    assert 2 * parameters(SMALL) < parameters(gated) < 3 * parameters(SMALL)
    member = build(SMALL).members[0]
    twice = Ensemble([member, member])
    assert parameters(twice) == parameters(SMALL)
    assert flops(twice, (1, 8, 8)) == 2 * flops(SMALL)


def test_counting_leaves_the_model_alone() -> None:
    model = build(replace(SMALL, members=2))
    model.members[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    flops(model, (1, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError):
        flops(model, (2, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_flops_of_a_linear_layer_in_closed_form() -> None:
    assert flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)) == 2 * 12 * 5
    grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
    assert flops(grouped, (4, 5, 5)) == 2 * (5 * 5 * 8) * 9 * 2


@pytest.mark.parametrize("train", [True, False])
def test_attention_counts_in_closed_form(train: bool) -> None:
    """Projections of queries, keys, values and the output, the products of attention, and the perceptron, a token."""
    tokens, width, hidden = 12, 8, 16
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True).train(train)
    model = nn.Sequential(nn.Flatten(1, 2), layer, nn.Flatten())
    per_token = 4 * width * width + 2 * tokens * width + 2 * width * hidden
    assert flops(model, (3, 4, width)) == 2 * tokens * per_token
    assert torch.backends.mha.get_fastpath_enabled()


def test_published_vision_transformers() -> None:
    for name in ("vit_b_16", "swin_t"):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None)
        assert flops(model, (3, 224, 224)) / 2e9 == pytest.approx(weights.meta["_ops"], abs=5e-4)


def test_published_records_hold_what_is_counted() -> None:
    found = 0
    for path in sorted((Path(__file__).parents[2] / "leaderboards").rglob("record.json")):
        told = json.loads(path.read_text())
        if told["architecture"] is not None:
            found += 1
            assert flops(Architecture.from_dict(told["architecture"])) == told["flops"]
    assert found


def test_paper_widths() -> None:
    assert match_width(WRN_28_10, times=2, by="paper") == 15
    assert match_width(WRN_28_10, times=4, by="paper") == 20
    assert parameters(replace(WRN_28_10, width=15)) / parameters(WRN_28_10) == pytest.approx(2.25, abs=0.01)
    with pytest.raises(InvalidValueError, match="times is 3"):
        match_width(WRN_28_10, times=3, by="paper")


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("by", ["params", "flops"])
@pytest.mark.parametrize("architecture", [SMALL, replace(WRN_10_1, depth=16, width=4)], ids=["small", "wrn-16-4"])
def test_matched_width_meets_the_budget(architecture: Architecture, by: str, times: int) -> None:
    count = parameters if by == "params" else flops
    width = match_width(architecture, times=times, by=by)
    ratio = count(replace(architecture, width=width)) / count(architecture)
    assert ratio == pytest.approx(times, rel=0.01)
    assert 1 < width / architecture.width < times


def test_matched_width_of_wrn_28_10_is_near_the_square_root_of_two() -> None:
    width = match_width(WRN_28_10, times=2, by="params")
    assert width == pytest.approx(10 * 2**0.5, abs=0.05)
    assert parameters(replace(WRN_28_10, width=width)) == pytest.approx(2 * parameters(WRN_28_10), rel=0.001)


def test_matched_width_is_the_closest_of_all() -> None:
    """Every width on a fine grid costs at least as far from the budget (WRN-10-1, where rounding is coarse)."""
    target = 2 * parameters(WRN_10_1)
    found = abs(parameters(replace(WRN_10_1, width=match_width(WRN_10_1, times=2, by="params"))) - target)
    grid = [1.3 + i / 256 for i in range(64)]
    assert found <= min(abs(parameters(replace(WRN_10_1, width=width)) - target) for width in grid)


def test_match_width_mistakes() -> None:
    assert match_width(SMALL, times=1, by="params") == 1
    with pytest.raises(UnknownNameError, match="did you mean params"):
        match_width(SMALL, times=2, by="param")
    with pytest.raises(InvalidValueError, match="members is 2"):
        match_width(replace(SMALL, members=2), times=2, by="params")
    with pytest.raises(InvalidValueError, match="times is 0"):
        match_width(SMALL, times=0, by="flops")
    with pytest.raises(InvalidValueError, match="image_shape is missing"):
        flops(nn.Linear(2, 2))
