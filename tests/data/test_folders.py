"""Data sets in class folders: what is read, how it is split, which sizes it gets, and what can be wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import flat, images_of, pixels, save, split
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Resize

from ensemble_bench.data import memory as memories
from ensemble_bench.data import open_source
from ensemble_bench.data.arrange import nearest_to, statistics
from ensemble_bench.errors import DataError
from ensemble_bench.registry import check_data
from ensemble_bench.server.confinement import memory_of


def test_folders_hold_what_torchvision_reads(tmp_path: Path) -> None:
    root = split(tmp_path / "mine", {"train": 10, "test": 4})
    source = open_source(f"folder:{root}")
    theirs = ImageFolder(str(root / "test"))
    test = source.split("test")
    assert source.classes == tuple(theirs.classes)
    assert sorted(test.ids.tolist()) == list(range(12))
    for image, label, row in zip(test.images, test.labels, test.ids, strict=True):
        picture, their_label = theirs[int(row)]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture))
        assert label == their_label
    train = ImageFolder(str(root / "train"))
    assert len(source.split("train")) + len(source.split("validation")) == len(train)
    assert source.name == "mine"
    assert source.dataset == f"folder:{root}"
    assert source.image_shape == (3, 9, 9)


def test_the_first_images_are_of_several_classes(tmp_path: Path) -> None:
    test = open_source(f"folder:{split(tmp_path, {'train': 10, 'val': 10})}").split("test")
    assert len(set(test.labels[:10].tolist())) == 3


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"train": 20, "test": 4}, (54, 6, 12)),
        ({"train": 20, "val": 4}, (54, 6, 12)),
        ({"train": 20, "valid": 3, "test": 4}, (60, 9, 12)),
        ({"": 20}, (44, 4, 12)),
    ],
)
def test_splits_are_disjoint_stratified_and_always_the_same(
    parts: dict[str, int], sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    name = f"folder:{split(tmp_path / 'x', parts)}"
    source, again = open_source(name), open_source(name)
    found = images_of(source)
    assert tuple(map(len, found.values())) == sizes
    assert len({image.numpy().tobytes() for part in found.values() for image in part}) == sum(sizes)
    for part in found:
        counts = torch.bincount(source.split(part).labels, minlength=3)
        assert counts.max() - counts.min() <= 1
        assert torch.equal(found[part], images_of(again)[part])
    assert source.fingerprint == again.fingerprint


def test_a_changed_pixel_is_another_data_set_and_another_folder_is_not(tmp_path: Path) -> None:
    first = flat(tmp_path / "a")
    before = open_source(f"folder:{first}")
    first.rename(tmp_path / "b")
    assert open_source(f"folder:{tmp_path / 'b'}").fingerprint == before.fingerprint
    path = tmp_path / "b/class0/0.png"
    changed = np.array(Image.open(path))
    changed[0, 0, 0] ^= 1
    save(path, changed)
    assert open_source(f"folder:{tmp_path / 'b'}").fingerprint != before.fingerprint


def test_test_images_alone_can_be_evaluated_on(tmp_path: Path) -> None:
    source = open_source(f"folder:{split(tmp_path, {'val': 5})}")
    assert len(source.split("test")) == 15
    with pytest.raises(DataError, match="no train images: this data set is for evaluation"):
        source.split("train")


def test_validation_images_are_there_without_training_images(tmp_path: Path) -> None:
    source = open_source(f"folder:{split(tmp_path, {'val': 5, 'test': 4})}")
    assert [len(source.split(part)) for part in ("validation", "test")] == [15, 12]
    with pytest.raises(DataError, match="no train images"):
        source.split("train")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGBA", 3), ("P", 3), ("LA", 3), ("RGB", 3)])
def test_every_mode_is_read_as_pillow_converts_it(mode: str, channels: int, tmp_path: Path) -> None:
    for label in "ab":
        for i in range(5):
            save(tmp_path / label / f"{i}.png", pixels(8, 8, 3), mode)
    test = open_source(f"folder:{tmp_path}").split("test")
    files = sorted(tmp_path.glob("*/*.png"))
    for image, row in zip(test.images, test.ids, strict=True):
        with Image.open(files[int(row)]) as file:
            expected = np.asarray(file.convert("L" if channels == 1 else "RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy().squeeze(), expected)


def test_grey_among_coloured_images_becomes_rgb(tmp_path: Path) -> None:
    root = flat(tmp_path, shape=(8, 8, 3))
    save(root / "class0/0.png", pixels(8, 8))
    assert open_source(f"folder:{root}").image_shape == (3, 8, 8)


@pytest.mark.parametrize(("resize", "crop"), [(16, None), (20, 16), (None, 12), (13, 11)])
def test_sizes_are_torchvisions(resize: int | None, crop: int | None, tmp_path: Path) -> None:
    shapes = [(33, 20, 3), (24, 24, 3), (17, 40, 3), (12, 12, 3)]
    for label in "ab":
        for i, shape in enumerate(shapes):
            save(tmp_path / label / f"{i}.png", pixels(*shape))
    options = "&".join(f"{k}={v}" for k, v in (("resize", resize), ("crop", crop)) if v)
    source = open_source(f"folder:{tmp_path}?{options}")
    steps = ([Resize(resize)] if resize else []) + [CenterCrop(crop or resize or 0)]
    files = sorted(tmp_path.glob("*/*.png"))
    for part in ("train", "validation", "test"):
        held = source.split(part)
        for image, row in zip(held.images, held.ids, strict=True):
            with Image.open(files[int(row)]) as file:
                expected = np.asarray(Compose(steps)(file.convert("RGB")))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_the_size_is_part_of_the_name(tmp_path: Path) -> None:
    root = flat(tmp_path / "pics", shape=(40, 40, 3))
    name = check_data(f"folder:{root}", resize=20, crop=16)
    source = open_source(name)
    assert source.name == "pics-resize20-crop16"
    assert source.dataset == name == f"folder:{root}?resize=20&crop=16"
    assert source.image_shape == (3, 16, 16)


def test_images_are_kept_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"folder:{flat(tmp_path / 'pics')}"
    before = open_source(name)
    monkeypatch.setattr("ensemble_bench.data.keep.decode", lambda *_: pytest.fail("decoded again"))
    assert open_source(name).fingerprint == before.fingerprint


def test_reading_a_split_copies_nothing(tmp_path: Path) -> None:
    source = open_source(f"folder:{flat(tmp_path / 'pics')}")
    assert source.split("train").images.data_ptr() == source.split("train").images.data_ptr()
    x, _ = source.split("test").batch(slice(4))
    assert x.is_contiguous()


def test_images_that_do_not_fit_are_refused_with_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "available", lambda: 1000)
    with pytest.raises(DataError, match=r"60 images of 12x10x3 take .* GiB of memory, 0\.0 GiB are free") as caught:
        open_source(f"folder:{flat(tmp_path / 'pics')}")
    assert "\n" not in str(caught.value)


def test_memory_that_is_free_is_a_sensible_number() -> None:
    assert 2**20 < memories.available() < 2**50


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text(f"{3 * 2**20}\n")
    used.write_text(f"{2**20}\n")
    monkeypatch.setattr(memories, "LIMITS", ((limit, used),))
    assert memories.available() == 2 * 2**20
    assert memory_of(None) == 1.5 * 2**20
    assert memory_of(0.5) == 2**29


@pytest.mark.parametrize(
    "stat",
    [
        "anon 5\nfile 900000\nactive_file 100000\ninactive_file 700000\nshmem 100000\n",
        "inactive_file 10\nactive_file 10\ntotal_inactive_file 600000\ntotal_active_file 200000\n",
    ],
)
def test_files_in_the_page_cache_of_a_container_take_no_memory(
    stat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text("3000000\n")
    used.write_text("2900000\n")
    monkeypatch.setattr(memories, "LIMITS", ((limit, used),))
    assert memories.available() == 100_000
    (tmp_path / "memory.stat").write_text(stat)
    assert memories.available() == 900_000


def test_mean_and_deviation_are_those_of_the_pixels() -> None:
    images = torch.from_numpy(pixels(50, 9, 7, 3))
    mean, std = statistics(images)
    floats = images.double() / 255
    assert mean == pytest.approx(floats.mean((0, 1, 2)).tolist(), abs=6e-5)
    assert std == pytest.approx(floats.std((0, 1, 2), unbiased=False).tolist(), abs=6e-5)
    assert statistics(torch.zeros(4, 8, 8, 1, dtype=torch.uint8)) == ((0.0,), (0.001,))


def test_the_nearest_settings() -> None:
    assert nearest_to(1, 28, 28) == ("digits", 32 / 255)
    assert nearest_to(1, 64, 64)[0] == nearest_to(3, 32, 32)[0] == "cifar10"
    assert nearest_to(3, 224, 224) == ("cifar10", 4 / 255)


def _odd_size(root: Path) -> None:
    save(flat(root) / "class1/5.png", pixels(13, 10, 3))


def _sixteen_bits(root: Path) -> None:
    flat(root, shape=(8, 8, 3))
    Image.fromarray(pixels(8, 8).astype(np.uint16)).save(root / "class1/5.png")


def _damaged(root: Path) -> None:
    (flat(root) / "class1/5.png").write_bytes(b"\x89PNG no")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda root: None, r"does not exist: it must hold train/<class>/"),
    "a file": (lambda root: root.touch(), "is not a folder"),
    "empty": (lambda root: root.mkdir(), "holds 0 class folders"),
    "one class": (lambda root: flat(root, classes=1), "holds 1 class folders"),
    "odd size": (_odd_size, r"images differ in size: .* is 10x12, .*class1/5\.png is 10x13; pass --resize N"),
    "too small": (lambda root: flat(root, shape=(7, 9, 3)), "is 9x7: expected at least 8x8"),
    "16 bits": (_sixteen_bits, r"class1/5\.png is of mode I;16: expected 8 bits"),
    "damaged": (_damaged, r"cannot decode image .*class1/5\.png"),
    "train only": (lambda root: split(root, {"train": 3}), "training alone: expected test or val"),
    "new class": (
        lambda root: flat(split(root, {"train": 3}) / "test", classes=4),
        "class 'class3' of test/ is not in",
    ),
    "two names": (lambda root: split(root, {"train": 3, "val": 3, "valid": 3}), "val/ and valid/, which mean the same"),
    "no images": (lambda root: (flat(root) / "empty").mkdir(), "empty holds no .png or .jpg files"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_folders_give_one_clear_line(case: str, tmp_path: Path) -> None:
    make, message = FOLDERS[case]
    make(root := tmp_path / "mine")
    with pytest.raises(DataError, match=message) as caught:
        open_source(f"folder:{root}")
    assert "\n" not in str(caught.value)


def test_a_crop_larger_than_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is 10x12: too small to crop 11x11 from, so pass --resize"):
        open_source(f"folder:{flat(tmp_path)}?crop=11")
