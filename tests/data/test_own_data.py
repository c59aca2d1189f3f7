"""Data sets of the user's own, named by their place: what is read, how it is split, and what can be wrong."""

import importlib.util
import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Resize

from ensemble_bench import data
from ensemble_bench.data import DataSource, imagenet, open_source
from ensemble_bench.data import memory as memories
from ensemble_bench.data.arrange import nearest_to, statistics
from ensemble_bench.errors import DataError, InvalidValueError, UnknownNameError
from ensemble_bench.registry import check_data
from ensemble_bench.registry.places import place_of
from ensemble_bench.server.confinement import memory_of

RNG = np.random.default_rng(0)
Pixels = NDArray[np.uint8]


def pixels(*shape: int) -> Pixels:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: Pixels, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(image)
    (made if mode is None else made.convert(mode)).save(path)


def flat(
    root: Path, *, classes: int = 3, each: int = 20, shape: tuple[int, ...] = (12, 10, 3), end: str = "png"
) -> Path:
    for label in range(classes):
        for i in range(each):
            save(root / f"class{label}" / f"{i}.{end}", pixels(*shape))
    return root


def split(root: Path, parts: dict[str, int], shape: tuple[int, ...] = (9, 9, 3)) -> Path:
    for part, each in parts.items():
        flat(root / part, each=each, shape=shape)
    return root


def images_of(source: DataSource) -> dict[str, torch.Tensor]:
    return {part: source.split(part).images for part in ("train", "validation", "test")}


# ── folders ──


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


# ── names ──


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("folder:", {}, "expected a path behind folder:"),
        ("folder:x?size=3", {}, "expected resize=N or crop=N behind .*found 'size=3'"),
        ("folder:x?resize=9999", {}, "resize is 9999: choose 1 to 512"),
        ("folder:x?resize=32", {"resize": 40}, "resize is given twice"),
        ("folder:x", {"resize": 32, "crop": 40}, "crop is 40: the shorter side is resized to 32"),
        ("npz:x.npz", {"crop": 8}, "npz files hold arrays of one size"),
        ("digits", {"resize": 8}, "--resize is for images of a folder:PATH"),
    ],
)
def test_bad_places(name: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        check_data(name, **sizes)


@pytest.mark.parametrize("name", ["flder:x", "mnist", 3])
def test_unknown_names_offer_the_forms(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"cifar10.*folder:PATH"):
        open_source(name)


def test_a_place_leads_back_to_itself() -> None:
    place = place_of("parquet:some/file.parquet?resize=32")
    assert place is not None
    assert place.path.is_absolute()
    assert place_of(place.text) == place
    assert place_of("cifar10") is None


def test_a_copy_is_not_named_like_a_registered_data_set(tmp_path: Path) -> None:
    assert open_source(f"folder:{flat(tmp_path / 'cifar10')}").name == "cifar10-folder"


# ── arrays ──


def arrays(n: int = 40, test: int = 10, shape: tuple[int, ...] = (9, 8, 3)) -> dict[str, NDArray[np.generic]]:
    return {
        "x_train": pixels(n, *shape),
        "y_train": np.arange(n) % 4,
        "x_test": pixels(test, *shape),
        "y_test": np.arange(test) % 4,
    }


def write_npz(path: Path, **content: object) -> str:
    np.savez(path, **content)
    return f"npz:{path}"


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


def test_grey_arrays(tmp_path: Path) -> None:
    source = open_source(write_npz(tmp_path / "a.npz", **arrays(shape=(9, 8))))
    assert source.image_shape == (1, 9, 8)


def test_shades_between_two_bytes_are_told(tmp_path: Path) -> None:
    content = arrays()
    content["x_train"] = np.full((40, 9, 8, 3), 0.5)
    with pytest.warns(UserWarning, match=r"rounded to the nearest of 256 shades, by up to 0\.0020"):
        open_source(write_npz(tmp_path / "a.npz", **content))


ARRAYS: dict[str, tuple[dict[str, object], str]] = {
    "0 to 255 as float": ({"x_test": np.full((10, 9, 8, 3), 200.0)}, "go from 200 to 200: expected 0 to 1 .*255"),
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


# ── parquet ──


def encoded(image: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def write_parquet(path: Path, *, struct: bool = True, told: object = None, n: int = 30, **columns: object) -> Pixels:
    """A column of images called photo, unless `columns` has others; returns the images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    images = pixels(n, 8, 9, 3)
    cells = [{"bytes": encoded(x), "path": None} if struct else encoded(x) for x in images]
    table = pa.table({"photo": cells, **(columns or {"kind": [i % 3 for i in range(n)]})})
    if told is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": told}})})
    pq.write_table(table, path)
    return images


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-abc.parquet", "data/validation-00000-of-00001-abc.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
    ],
)
def test_parquet_in_every_layout(train: str, test: str, struct: bool, tmp_path: Path) -> None:
    write_parquet(tmp_path / "p" / train, struct=struct)
    images = write_parquet(tmp_path / "p" / test, struct=struct)
    source = open_source(f"parquet:{tmp_path / 'p'}")
    assert np.array_equal(source.split("test").images.permute(0, 2, 3, 1).numpy(), images)
    assert source.split("test").labels.tolist() == [i % 3 for i in range(30)]
    assert len(source.split("train")) == 27
    assert source.name == "p"


def test_a_file_of_parquet_is_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", kind=[("cat", "dog")[i % 2] for i in range(30)])
    source = open_source(f"parquet:{tmp_path / 'all.parquet'}")
    assert source.classes == ("cat", "dog")
    assert [len(source.split(part)) for part in ("train", "validation", "test")] == [22, 2, 6]


def test_the_hubs_metadata_name_the_label_and_its_classes(tmp_path: Path) -> None:
    told = {"photo": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}
    columns = {"id": list(range(30)), "kind": [i % 3 for i in range(30)]}
    write_parquet(tmp_path / "all.parquet", told=told, **columns)
    source = open_source(f"parquet:{tmp_path / 'all.parquet'}")
    assert source.classes == ("a", "b", "c")
    assert sorted(set(source.split("train").labels.tolist())) == [0, 1, 2]


def test_bad_parquet_gives_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    cases: list[tuple[dict[str, object], str]] = [
        (
            {"id": list(range(30)), "kind": [0, 1] * 15},
            "expected one column of labels .* found id, kind: call it label",
        ),
        ({"weight": [0.5] * 30}, "found none of photo, weight"),
        ({"kind": [0, None] * 15}, "row 1 of .* has no label in kind"),
        ({"kind": [0, -1] * 15}, "label -1"),
        ({"kind": [0] * 30}, "holds 1 classes: expected at least 2"),
    ]
    for columns, message in cases:
        write_parquet(path, **columns)
        with pytest.raises(DataError, match=message):
            open_source(f"parquet:{path}")
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="as parquet"):
        open_source(f"parquet:{path}")
    with pytest.raises(DataError, match="does not exist"):
        open_source(f"parquet:{tmp_path / 'no'}")
    path.unlink()
    with pytest.raises(DataError, match=r"holds no \.parquet files"):
        open_source(f"parquet:{tmp_path}")
    write_parquet(tmp_path / "train-00000-of-00002.parquet")
    write_parquet(tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="incomplete: it lacks train-00001-of-00002"):
        open_source(f"parquet:{tmp_path}")


# ── CIFAR-100 and ImageNet ──


def cifar100(folder: Path, *, meta: bool = True) -> dict[str, Pixels]:
    folder.mkdir(parents=True)
    images = {part: pixels(200, 3072) for part in ("train", "test")}
    for part, x in images.items():
        content = {"data": x, "fine_labels": [i % 100 for i in range(200)], "coarse_labels": [0] * 200}
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))
    if meta:
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"c{i}" for i in range(100)]}))
    return images


def test_cifar100_from_its_batches(tmp_path: Path) -> None:
    images = cifar100(tmp_path / "copy/cifar-100-python")
    source = open_source("cifar100", tmp_path / "copy")
    assert (source.name, source.dataset, source.image_shape) == ("copy", "cifar100", (3, 32, 32))
    assert source.classes[:2] == ("c0", "c1")
    test = source.split("test")
    assert np.array_equal(test.images.numpy(), images["test"].reshape(-1, 3, 32, 32))
    assert test.labels.tolist() == [i % 100 for i in range(200)]
    assert source.trains_like == "cifar10"


def test_cifar100_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar100 needs its folder"):
        open_source("cifar100")
    with pytest.raises(DataError, match="holds no CIFAR-100"):
        open_source("cifar100", tmp_path)
    cifar100(tmp_path / "x", meta=False)
    with pytest.raises(DataError, match="incomplete: it lacks meta"):
        open_source("cifar100", tmp_path / "x")
    (tmp_path / "x/meta").write_bytes(b"no")
    with pytest.raises(DataError, match="is not a list of CIFAR-100's classes"):
        open_source("cifar100", tmp_path / "x")
    write_parquet(tmp_path / "y" / "train.parquet")
    write_parquet(tmp_path / "y" / "test.parquet")
    with pytest.raises(DataError, match="holds 3 classes of 8x9x3 images: CIFAR-100 has 100"):
        open_source("cifar100", tmp_path / "y")


def test_imagenet_is_validated_at_224(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble_bench.data.imagenet.CLASSES", 3)
    root = flat(tmp_path / "ilsvrc" / "val", each=2, shape=(30, 40, 3), end="JPEG").parent
    source = open_source("imagenet", root)
    assert (source.image_shape, source.name, source.default_eps) == ((3, 224, 224), "imagenet-ilsvrc", 4 / 255)
    assert len(source.split("test")) == 6
    with pytest.raises(DataError, match="imagenet needs its folder"):
        open_source("imagenet")


@pytest.mark.parametrize("layout", ["val/{}", "{}", "val/{file}", "{file}"])
def test_robustbenchs_images_are_found_by_its_list(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(str(importlib.util.find_spec("robustbench").origin)).parent  # type: ignore[union-attr]
    listed = (package / imagenet.LIST).read_text().split()
    assert len(listed) == len(set(listed)) == 5000
    names, more = listed[:4], listed[4:6]
    for shade, name in enumerate([*names, *more]):
        image = np.full((30, 40, 3), 40 * shade, dtype=np.uint8)
        save(tmp_path / layout.format(name, file=Path(name).name), image)
    with pytest.raises(DataError, match=r"lacks 4,994 of the 5,000 validation images .*, such as .*ILSVRC2012_val_"):
        open_source("imagenet-robustbench", tmp_path)
    text = imagenet._of_robustbench
    monkeypatch.setattr(
        imagenet, "_of_robustbench", lambda file: "\n".join(names) if file == imagenet.LIST else text(file)
    )
    source = open_source("imagenet-robustbench", tmp_path)
    x, y = source.split("test").batch(slice(None))
    assert source.name == "imagenet-robustbench"
    assert x.shape == (4, 3, 224, 224)
    assert [round(float(image.mean()) * 255 / 40) for image in x] == [0, 1, 2, 3]  # in the order of the list
    assert [source.classes[label] for label in y.tolist()] == [name.partition("/")[0] for name in names]
    assert list(source.classes) == sorted(source.classes)  # as the folders are numbered for `imagenet`
    with pytest.raises(DataError, match="for evaluation alone"):
        source.split("train")


def test_robustbenchs_images_need_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="imagenet-robustbench needs its folder"):
        open_source("imagenet-robustbench")
    with pytest.raises(DataError, match="does not exist"):
        open_source("imagenet-robustbench", tmp_path / "nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DataError, match="needs the package robustbench"):
        open_source("imagenet-robustbench", tmp_path)


def test_load_takes_a_place(tmp_path: Path) -> None:
    name = write_npz(tmp_path / "a.npz", **arrays())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = data.load(name, n=5)
    assert x.shape == (5, 3, 9, 8)
    assert x.max() <= 1
    assert y.tolist() == [0, 1, 2, 3, 0]
