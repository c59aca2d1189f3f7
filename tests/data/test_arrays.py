"""Data sets in npz files: every usual layout is the same data, and what can be wrong."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from own_images import arrays, pixels, write_npz

from ensemble_bench import data
from ensemble_bench.data import open_source
from ensemble_bench.data.given import given_source
from ensemble_bench.errors import DataError

NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("trainImages", "trainLabels", "testImages", "testLabels"),
    ("train_data", "train_targets", "val_data", "val_targets"),
)


@pytest.mark.parametrize("names", NAMES)
def test_arrays_under_every_usual_name(names: tuple[str, ...], tmp_path: Path) -> None:
    content = arrays()
    source = open_source(write_npz(tmp_path / "a.npz", **dict(zip(names, content.values(), strict=True))))
    test = source.split("test")
    assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), content["x_test"])
    assert np.array_equal(test.labels.numpy(), content["y_test"])
    train = source.split("train")
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), content["x_train"][train.ids])
    assert (source.name, source.classes) == ("a", ("0", "1", "2", "3"))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.transpose(0, 3, 1, 2),
        lambda x: x.astype(np.float32) / 255,
        lambda x: x.astype(np.float64).transpose(0, 3, 1, 2) / 255,
        lambda x: x.astype(np.int64),
    ],
)
def test_other_orders_and_types_of_the_same_arrays_are_the_same_data(
    change: Callable[[NDArray[np.generic]], NDArray[np.generic]], tmp_path: Path
) -> None:
    content = arrays()
    other = {name: change(a) if name.startswith("x") else a[:, None] for name, a in content.items()}
    first = open_source(write_npz(tmp_path / "a.npz", **content))
    second = open_source(write_npz(tmp_path / "b.npz", **other))
    assert first.fingerprint == second.fingerprint


def test_arrays_without_splits_and_with_names(tmp_path: Path) -> None:
    content = arrays(60)
    name = write_npz(tmp_path / "a.npz", x=content["x_train"], y=content["y_train"], classes=np.array(list("abcd")))
    source = open_source(name)
    assert source.classes == ("a", "b", "c", "d")
    assert [len(source.split(part)) for part in ("train", "validation", "test")] == [44, 4, 12]


def test_class_names_in_bytes(tmp_path: Path) -> None:
    content = arrays()
    names = np.array(["a", "b", "c", "ä"])
    name = write_npz(tmp_path / "a.npz", **content, classes=np.char.encode(names, "utf-8"))
    assert open_source(name).classes == tuple(names)


def test_tensors_in_a_list_and_read_only_arrays() -> None:
    x, y = pixels(6, 8, 8), np.arange(6) % 2
    expected = given_source((x, y), pair="test").fingerprint
    x.setflags(write=False)
    assert given_source((x, y), pair="test").fingerprint == expected
    tensors = [torch.from_numpy(image / 255).requires_grad_() for image in x]
    assert given_source((tensors, list(torch.from_numpy(y))), pair="test").fingerprint == expected
    for wrong in (torch.zeros(2, 8, 8).to_sparse(), [torch.zeros(8, 8), torch.zeros(9, 9)]):
        with pytest.raises(DataError, match="cannot make an array of a ") as caught:
            given_source((wrong, [0, 1]), pair="test")
        assert "\n" not in str(caught.value)


def test_grey_arrays(tmp_path: Path) -> None:
    source = open_source(write_npz(tmp_path / "a.npz", **arrays(shape=(9, 8))))
    assert source.image_shape == (1, 9, 8)


def test_shades_between_two_bytes_are_told(tmp_path: Path) -> None:
    content = arrays()
    content["x_train"] = np.full((40, 9, 8, 3), 0.5)
    with pytest.warns(UserWarning, match=r"rounded to the nearest of 256 shades, by up to 0\.0020"):
        open_source(write_npz(tmp_path / "a.npz", **content))


@pytest.mark.parametrize("shades", [2, 4, 16])
def test_shades_are_those_of_all_images_and_not_of_the_first(shades: int) -> None:
    few = np.random.default_rng(0).integers(0, shades + 1, (100, 8, 8)) / shades
    many = pixels(100, 8, 8) / 255
    y = np.arange(200) % 2
    with pytest.warns(UserWarning, match=r"256 shades, by up to 0\.00"):
        source = given_source((np.concatenate([few, many]), y), pair="test")
    x, _ = source.split("test").batch(slice(100, None))
    assert source.scale == 255
    assert np.array_equal(x[:, 0].numpy(), many.astype(np.float32))
    first_black = np.concatenate([np.zeros((100, 8, 8)), few])
    x, _ = given_source((first_black, y), pair="test").split("test").batch(slice(None))
    assert np.array_equal(x[:, 0].numpy(), first_black.astype(np.float32))


def test_counts_and_their_fractions_are_other_images() -> None:
    counts, y = pixels(20, 8, 8) // 16, np.arange(20) % 2
    dark, light = given_source((counts, y), pair="test"), given_source((counts / 16, y), pair="test")
    assert np.array_equal(dark.split("test").images, light.split("test").images)
    assert (dark.scale, light.scale) == (255, 16)
    assert dark.fingerprint != light.fingerprint


ARRAYS: dict[str, tuple[dict[str, object], str]] = {
    "0 to 255 as float": ({"x_test": np.full((10, 9, 8, 3), 200.0)}, "go from 200 to 200: expected 0 to 1 .*255"),
    "a little above": (
        {"x_test": np.full((10, 9, 8, 3), np.nextafter(np.float32(1), np.float32(2)))},
        "go from 1.0000001 to 1.0000001: expected 0 to 1 for float32$",
    ),
    "negative": ({"x_test": np.full((10, 9, 8, 3), -0.5)}, "go from -0.5 to -0.5: expected 0 to 1"),
    "nan": ({"x_test": np.full((10, 9, 8, 3), np.nan)}, "go from nan to nan"),
    "text": ({"x_test": np.full((10, 9, 8, 3), "a")}, "are <U1: expected uint8"),
    "two channels": ({"x_test": pixels(10, 9, 8, 2)}, r"shape \(10, 9, 8, 2\): expected 1 or 3 channels"),
    "flat": ({"x_test": pixels(10, 216)}, r"shape \(10, 216\): expected \(n, row, column\)"),
    "small": ({"x_test": pixels(10, 7, 8, 3)}, "are 7x8x3: expected at least 8x8"),
    "other size": ({"x_test": pixels(10, 9, 9, 3)}, "images of test are 9x9x3, those of train 9x8x3"),
    "few labels": ({"y_test": np.arange(3)}, "test: 10 images but 3 labels"),
    "one-hot": ({"y_test": np.eye(10)}, r"are float64 of shape \(10, 10\): expected a whole number for each"),
    "negative label": ({"y_test": np.arange(10) - 1}, "label -1 in .* is out of range"),
    "unnamed label": ({"classes": np.array(["a", "b"])}, "label 3 in .* has no name: 2 classes are named"),
    "objects": ({"x_test": np.array([None] * 10)}, "no .npz file of plain arrays"),
    "no labels": ({"y_test": None}, "holds x_train, y_train, x_test: expected x_train, y_train"),
    "no split": (
        {"x": pixels(9, 9, 8, 3), "y": np.arange(9)},
        "holds x and y of no split, and x_train beside them: name the split",
    ),
    "twice": ({"test_images": pixels(10, 9, 8, 3)}, "x_test and test_images, which mean the same"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_bad_arrays_give_one_clear_line(case: str, tmp_path: Path) -> None:
    changes, message = ARRAYS[case]
    content = {name: a for name, a in {**arrays(), **changes}.items() if a is not None}
    with pytest.raises(DataError, match=message) as caught:
        open_source(write_npz(tmp_path / "a.npz", **content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"hello", "no .npz file"), (b"PK\x03\x04", "no .npz file"), (None, "cannot read")]
)
def test_what_is_no_archive(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(f"npz:{tmp_path / 'a.npz'}")


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(9, 8, 8))
    with pytest.raises(DataError, match=r"a\.npy is a single array: expected an \.npz file of x_train"):
        open_source(f"npz:{tmp_path / 'a.npy'}")


def test_load_takes_a_place(tmp_path: Path) -> None:
    name = write_npz(tmp_path / "a.npz", **arrays())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = data.load(name, n=5)
    assert x.shape == (5, 3, 9, 8)
    assert x.max() <= 1
    assert y.tolist() == [0, 1, 2, 3, 0]
