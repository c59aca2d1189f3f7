"""Networks for images of every size: what their first layers do, and that those for small images are as they were."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.models import checkpoint
from ensemble_bench.models.architecture import Architecture, stride_for
from ensemble_bench.models.build import build
from ensemble_bench.models.folded import twin_of
from ensemble_bench.training.plan import architecture_of
from ensemble_bench.training.presets import Network

SIZES = (8, 28, 32, 48, 64, 224)
NETWORKS = {
    "wrn": Network(backbone="wrn", depth=10, width=0.25),
    "preact_resnet18": Network(backbone="preact_resnet18", width=0.0625),
    "vgg16_bn": Network(backbone="vgg16_bn", width=0.0625),
    "small_cnn": Network(backbone="small_cnn", width=0.25),
}


def made_for(digits: DataSource, name: str, side: int, channels: int = 3) -> Architecture:
    means = (0.5,) * channels
    source = replace(digits, image_shape=(channels, side, side), mean=means, std=means, classes=tuple("abcde"))
    return architecture_of(NETWORKS[name], source)


def rows_in_blocks(model: nn.Module, x: torch.Tensor) -> list[int]:
    """Sides of what the convolutions of 3x3 at stride 1 see: where the work of a network is."""
    found: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 3:
            module.register_forward_hook(lambda _, inputs, output: found.append(output.shape[2]))
    model(x)
    return found


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_every_size(name: str, side: int, digits: DataSource) -> None:
    for channels in (1, 3):
        architecture = made_for(digits, name, side, channels)
        model = build(architecture).eval()
        assert model(torch.rand(2, channels, side, side)).shape == (2, 5)
        assert Architecture.from_dict(architecture.as_dict()) == architecture


@pytest.mark.parametrize(("side", "first", "last"), [(28, 28, 7), (32, 32, 8), (48, 24, 6), (64, 32, 8), (224, 56, 14)])
def test_wide_resnets_work_at_the_resolution_they_were_made_for(
    side: int, first: int, last: int, digits: DataSource
) -> None:
    seen = rows_in_blocks(build(made_for(digits, "wrn", side)).eval(), torch.rand(1, 3, side, side))
    assert (seen[0], seen[-1]) == (first, last)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_for_small_images_hold_what_they_held(name: str, digits: DataSource) -> None:
    """Files that were written before there was a stride name none, and mean the network without one."""
    architecture = made_for(digits, name, 32)
    assert architecture.stride == 1
    assert "stride" not in architecture.as_dict()
    if name in ("wrn", "preact_resnet18"):
        stem = build(architecture).members[0].get_submodule("network.stem")
        assert isinstance(stem, nn.Conv2d)
        assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))


@pytest.mark.parametrize("side", [48, 224])
def test_a_checkpoint_keeps_its_stride(side: int, digits: DataSource, tmp_path: Path) -> None:
    architecture = made_for(digits, "wrn", side)
    model, x = build(architecture).eval(), torch.rand(2, 3, side, side)
    checkpoint.save(tmp_path / "last.safetensors", model, architecture, {})
    loaded = checkpoint.load(tmp_path / "last.safetensors")
    assert torch.equal(loaded(x), model(x))
    assert loaded.info is not None
    assert loaded.info.architecture.stride == architecture.stride > 1


@pytest.mark.parametrize("side", [48, 224])
@pytest.mark.parametrize("name", ["wrn", "preact_resnet18"])
def test_what_is_attacked_answers_as_the_network(name: str, side: int, digits: DataSource) -> None:
    model, x = build(made_for(digits, name, side)), torch.rand(4, 3, side, side)
    model(x)  # batch norm that is not the identity
    twin = twin_of(model.eval(), x[:1])
    assert twin.folded
    assert torch.allclose(twin.model(x), model(x), atol=1e-4)


@pytest.mark.parametrize(("changes", "message"), [({"stride": 3}, "stride is 3"), ({"stride": True}, "stride is True")])
def test_strides_that_are_none(changes: dict[str, int], message: str, digits: DataSource) -> None:
    values = made_for(digits, "wrn", 64).as_dict()
    with pytest.raises(CheckpointError, match=f"{message}: expected 1, 2 or 4"):
        Architecture.from_dict(values | changes)
    with pytest.raises(InvalidValueError, match="vgg16_bn has none, expected 1"):
        replace(made_for(digits, "vgg16_bn", 64), stride=2)


def test_sizes_that_no_network_takes(digits: DataSource) -> None:
    for side in (7, 513):
        with pytest.raises(InvalidValueError, match=f"are {side}x{side}: networks take 8x8 to 512x512 pixels"):
            made_for(digits, "wrn", side)


def test_other_networks_have_no_stride() -> None:
    assert stride_for("vgg16_bn", (3, 224, 224)) == stride_for("my_net", (3, 224, 224)) == 1
    assert stride_for("wrn", (3, 300, 64)) == 2
