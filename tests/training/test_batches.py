"""Batches: order, crops and flips are functions of (seed, step), checked against slicing image by image."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble_bench.data import DataSource
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.randomness import generator
from ensemble_bench.training.batches import Batches, augment

CPU = torch.device("cpu")


def test_an_epoch_shows_every_image_at_most_once_and_the_next_another_order(digits: DataSource) -> None:
    train = digits.split("train")
    batches = Batches.of(train, batch_size=64, seed=5, device=CPU)
    epochs = [[batches.at(e * batches.per_epoch + i) for i in range(batches.per_epoch)] for e in (0, 1)]
    assert batches.per_epoch == len(train) // 64
    first, second = (torch.cat([x for x, _ in epoch]).flatten(1) for epoch in epochs)
    everything, _ = train.batch(slice(None))
    known = {tuple(row) for row in everything.flatten(1).tolist()}
    assert {tuple(row) for row in first.tolist()} <= known
    assert len(first.unique(dim=0)) >= len(everything.flatten(1).unique(dim=0)) - (len(train) - len(first))
    assert not torch.equal(first, second)


def test_batches_pair_images_with_their_labels_and_repeat(digits: DataSource) -> None:
    train = digits.split("train")
    x, y = Batches.of(train, batch_size=50, seed=1, device=CPU).at(7)
    again, _ = Batches.of(train, batch_size=50, seed=1, device=CPU).at(7)
    other, _ = Batches.of(train, batch_size=50, seed=2, device=CPU).at(7)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    everything, labels = train.batch(slice(None))
    for image, label in zip(x, y, strict=True):
        same = (everything == image).flatten(1).all(dim=1)
        assert label in labels[same]
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)


def _reflected(image: Tensor) -> Tensor:
    """(row, column, channel) with a border of one pixel, the mirror image of what lies inside."""
    return F.pad(image.permute(2, 0, 1)[None].double(), (1, 1, 1, 1), mode="reflect")[0].permute(1, 2, 0).byte()


def test_augmentation_yields_only_shifts_and_flips_of_the_image() -> None:
    image = torch.arange(1, 1 + 5 * 6 * 2, dtype=torch.uint8).view(5, 6, 2)
    many = image.expand(400, 5, 6, 2).contiguous()
    made = augment(many, flip=True, crop=1, generator=generator("cpu", "test"))
    padded = _reflected(image)
    windows = [padded[dy : dy + 5, dx : dx + 6] for dy in range(3) for dx in range(3)]
    # A flipped crop is a crop of the flipped image.
    mirrored = _reflected(image.flip(1))
    windows += [mirrored[dy : dy + 5, dx : dx + 6] for dy in range(3) for dx in range(3)]
    counts = [int((made == window).flatten(1).all(dim=1).sum()) for window in windows]
    assert sum(counts) == 400
    assert min(counts) > 5  # all 18 occur, about 22 times each


def test_no_augmentation_returns_the_images() -> None:
    images = torch.randint(0, 255, (3, 4, 4, 1), dtype=torch.uint8)
    assert augment(images, flip=False, crop=0, generator=generator("cpu", 0)) is images


@pytest.mark.parametrize("size", [0, 1, 10**6])
def test_impossible_batch_sizes(digits: DataSource, size: int) -> None:
    with pytest.raises(InvalidValueError, match=f"batch size is {size}"):
        Batches.of(digits.split("train"), batch_size=size, seed=0, device=CPU)
