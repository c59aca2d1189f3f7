"""Splits, batches and fingerprints."""

import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from ensemble_bench.data import DataSource, ImageSet, load, open_source
from ensemble_bench.data.source import fingerprint, stratified_draw
from ensemble_bench.errors import InvalidValueError, UnknownNameError


def test_batch_is_counts_over_scale(digits: DataSource) -> None:
    found = digits.split("test")
    x, y = found.batch([3, 1])
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert torch.equal(x[0], torch.tensor(found.images[3].numpy() / np.float32(16)))
    assert y.tolist() == [found.labels[3].item(), found.labels[1].item()]
    assert torch.equal(found.batch(torch.tensor([3, 1]))[0], x)
    assert torch.equal(found.batch(slice(1, 4, 2))[0], x.flip(0))


def test_batch_never_shares_memory_with_the_set(digits: DataSource) -> None:
    found = digits.split("test")
    before = found.images.clone(), found.labels.clone()
    x, y = found.batch(slice(None))
    x.zero_()
    y.fill_(7)
    assert torch.equal(found.images, before[0])
    assert torch.equal(found.labels, before[1])


def test_first_keeps_ids_and_fingerprint(digits: DataSource) -> None:
    whole = digits.split("test")
    part = whole.first(5)
    assert isinstance(part, ImageSet)
    assert len(part) == 5
    assert part.ids.tolist() == whole.ids[:5].tolist()
    assert (part.fingerprint, part.split, part.name) == (whole.fingerprint, "test", "digits")
    assert len(whole.first(len(whole))) == len(whole)


@pytest.mark.parametrize("n", [0, -1, 361, 10_000])
def test_first_refuses_n_that_the_data_do_not_hold(digits: DataSource, n: int) -> None:
    with pytest.raises(InvalidValueError, match=rf"n is {n}: the test split of digits holds 360 images"):
        digits.split("test").first(n)
    with pytest.raises(InvalidValueError, match="choose 1 to 360"):
        load("digits", n=n)


def test_unknown_names_offer_the_nearest(digits: DataSource) -> None:
    with pytest.raises(UnknownNameError, match="did you mean cifar10"):
        open_source("cifar-10")
    with pytest.raises(UnknownNameError, match="did you mean validation"):
        digits.split("valid")


def test_load_gives_the_first_images() -> None:
    x, y = load("digits", split="validation", n=9)
    whole, labels = load("digits", split="validation")
    assert x.shape == (9, 1, 8, 8)
    assert torch.equal(x, whole[:9])
    assert torch.equal(y, labels[:9])


def test_fingerprint_is_sha256_of_shapes_pixels_and_labels() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    labels = torch.tensor([1, 0])
    expected = hashlib.sha256(b"train (2, 3, 2, 2)\n" + bytes(range(24)) + bytes([1, *[0] * 15])).hexdigest()
    assert fingerprint({"train": (images, labels)}) == f"sha256:{expected}"


def test_fingerprint_sees_every_change() -> None:
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    one_pixel = images.clone()
    one_pixel[5, 2, 3, 3] ^= 1
    variants = [
        {"train": (images, labels)},
        {"test": (images, labels)},
        {"train": (one_pixel, labels)},
        {"train": (images, labels.roll(1))},
        {"train": (images.flip(0), labels.flip(0))},
        {"train": (images.view(6, 3, 2, 8), labels)},
    ]
    assert len({fingerprint(parts) for parts in variants}) == len(variants)
    assert len({fingerprint(variants[0], scale) for scale in (255, 16, 15)}) == 3
    # Memory order is not content.
    strided = images.contiguous(memory_format=torch.channels_last)
    assert fingerprint({"train": (strided, labels)}) == fingerprint(variants[0])


@pytest.mark.parametrize(("n", "size"), [(100, 10), (1437, 144), (57, 5), (10, 1), (50, 50)])
def test_stratified_draw_is_a_partition_with_class_shares(n: int, size: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(n).integers(0, 10, n))
    drawn, rest = stratified_draw(labels, size)
    assert len(drawn) == size
    assert sorted([*drawn.tolist(), *rest.tolist()]) == list(range(n))
    assert rest.tolist() == sorted(rest.tolist())
    expected = labels.bincount(minlength=10).double() * size / n
    assert (labels[drawn].bincount(minlength=10) - expected).abs().max() < 1


def test_stratified_draw_depends_on_its_seed_alone() -> None:
    labels = torch.arange(100) % 10
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first, again, other = (stratified_draw(labels, 20, seed=seed)[0].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # type: ignore[index]
    # Runs of other days must find the same validation images.
    assert first[:6] == [26, 86, 2, 55, 75, 93]


def test_importing_data_imports_no_reader() -> None:
    code = "import sys, ensemble_bench.data.cifar10, ensemble_bench.data.digits; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(re.split(r"\s", done.stdout))
    assert not loaded & {"torchvision", "sklearn", "pyarrow", "PIL", "scipy", "pandas"}
