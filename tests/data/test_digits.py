"""The embedded digits, against scikit-learn's own arrays."""

import torch
from sklearn.datasets import load_digits

from ensemble_bench.data import DataSource, open_source


def test_splits_partition_scikit_learns_digits(digits: DataSource) -> None:
    splits = [digits.split(name) for name in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [1293, 144, 360]
    raw = load_digits()
    ids = torch.cat([split.ids for split in splits])
    assert sorted(ids.tolist()) == list(range(1797))
    images = torch.cat([split.images for split in splits]).squeeze(1)
    assert torch.equal(images.double(), torch.from_numpy(raw.images)[ids])
    assert torch.equal(torch.cat([split.labels for split in splits]), torch.from_numpy(raw.target)[ids])


def test_classes_are_balanced(digits: DataSource) -> None:
    assert digits.split("test").labels.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert set(digits.split("validation").labels.bincount().tolist()) <= {14, 15}


def test_description_fits_the_images(digits: DataSource) -> None:
    seen = torch.cat([digits.split(name).images for name in ("train", "validation")]).double() / digits.scale
    assert seen.min() == 0
    assert seen.max() == 1
    assert abs(seen.mean().item() - digits.mean[0]) < 1e-4
    assert abs(seen.std().item() - digits.std[0]) < 1e-4
    assert digits.image_shape == tuple(seen.shape[1:])
    assert digits.default_eps == 32 / 255
    assert (digits.dataset, digits.name, len(digits.classes)) == ("digits", "digits", 10)


def test_every_open_finds_the_same_images(digits: DataSource) -> None:
    again = open_source("digits", data_dir="/nowhere")
    # Records name this hash: it changes only when the splits do, and then old records no longer compare.
    assert again.fingerprint == digits.fingerprint == digits.split("train").fingerprint
    assert digits.fingerprint == "sha256:ae678d034a676e784598cabddbd1e70fdf881da738f8f929551d572dfd40adf1"
    assert torch.equal(again.split("validation").ids, digits.split("validation").ids)
