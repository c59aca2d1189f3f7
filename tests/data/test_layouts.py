"""The three layouts of CIFAR-10, and what is wrong with damaged ones."""

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cifar_files as files
import numpy as np
import pytest
import torch

from ensemble_bench.data import open_source
from ensemble_bench.errors import DataError

IMAGES = files.random_images()
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "batches": lambda root: files.write_batches(root, IMAGES),
    "child": lambda root: files.write_batches(root / "cifar-10-batches-py", IMAGES).parent,
    "python3": lambda root: files.write_batches(root, IMAGES, protocol=5),
    "parquet": lambda root: files.write_parquet(root, IMAGES),
    "shards": lambda root: files.write_parquet(root / "data", IMAGES, image="image", shards=3).parent,
    "plain_text": lambda root: files.write_parquet(root / "plain_text", IMAGES, struct=False).parent,
    "folders": lambda root: files.write_folders(root, IMAGES),
    "numbered": lambda root: files.write_folders(root, IMAGES, tuple("0123456789")),
    "sorted": lambda root: files.write_folders(root, IMAGES, tuple(f"class{i}" for i in range(10))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(layout: str, tmp_path: Path) -> None:
    source = open_source("cifar10", LAYOUTS[layout](tmp_path / "copy"))
    found = source.split("test")
    assert np.array_equal(found.images.numpy(), IMAGES["test"][0])
    assert np.array_equal(found.labels.numpy(), IMAGES["test"][1])
    assert found.ids.tolist() == list(range(30))
    train = source.split("train")
    assert np.array_equal(train.images.numpy(), IMAGES["train"][0][train.ids])
    same = open_source("cifar10", files.write_batches(tmp_path / "same", IMAGES))
    assert source.fingerprint == same.fingerprint == found.fingerprint
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", source.fingerprint)


def test_image_files_come_by_number_not_class_by_class(tmp_path: Path) -> None:
    for split, (pixels, labels) in IMAGES.items():
        for row, (x, y) in enumerate(zip(pixels, labels, strict=True)):
            name = files.CLASSES[y]
            path = tmp_path / split / name / f"{name}_{row}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files.png(x))
    assert open_source("cifar10", tmp_path).split("test").labels.tolist() == IMAGES["test"][1].tolist()


def test_hidden_files_and_what_is_no_image_are_skipped_and_counted(tmp_path: Path) -> None:
    root = files.write_folders(tmp_path / "copy", IMAGES)
    plain = open_source("cifar10", root)
    for odd in ("test/cat/._7.png", "test/cat/.DS_Store", "train/dog/Thumbs.db", "train/dog/notes.txt"):
        (root / odd).write_bytes(b"\0\5\26\7")
    for odd in ("train/.cache", "train/__MACOSX", "test/dog/.png"):
        (root / odd).mkdir()
    with pytest.warns(
        UserWarning, match=r"copy: skips 5 files that are hidden or no \.png or \.jpg, such as train/dog/"
    ):
        found = open_source("cifar10", root)
    assert found.fingerprint == plain.fingerprint
    (root / "train/dog/Thumbs.db").unlink()
    (root / "train/dog/notes.txt").rename(root / "train/dog/notes.png")  # says that it is an image, and is none
    with pytest.warns(UserWarning, match="skips 3"), pytest.raises(DataError, match=r"notes\.png: not a PNG or JPEG"):
        open_source("cifar10", root)


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    root = files.write_folders(tmp_path, IMAGES)
    grey = np.repeat(IMAGES["test"][0][0][:1], 3, axis=0)
    (first,) = root.glob("test/*/0.png")
    for mode in ("L", "P"):
        shades = grey if mode == "L" else grey // 128 * 255
        first.write_bytes(files.png(shades, mode))
        assert np.array_equal(open_source("cifar10", root).split("test").images[0].numpy(), shades)


# ── what can be wrong ──


def _without(layout: str, *names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        LAYOUTS[layout](root)
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def _with(layout: str, name: str, content: bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        LAYOUTS[layout](root)
        next(iter(root.glob(name))).write_bytes(content)

    return make


def _batch(**changes: object) -> bytes:
    x, y = IMAGES["test"]
    return pickle.dumps({"data": x.reshape(len(x), -1), "labels": y.tolist()} | changes, protocol=2)


def _parquet(labels: object = None, image: bytes | None = None, **names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        files.write_parquet(root, IMAGES)
        good = files.png(IMAGES["test"][0][0])
        content = {"img": [{"bytes": good}, {"bytes": image}], "label": labels or [0, 9]}
        table = pa.table({names.get(name, name): column for name, column in content.items()})
        pq.write_table(table, root / "test-00000-of-00001.parquet")

    return make


def _rename_class(root: Path) -> None:
    files.write_folders(root, IMAGES)
    for split in ("train", "test"):
        (root / split / "airplane").rename(root / split / "plane")


GOOD = files.png(IMAGES["test"][0][0])
SMALL = files.png(IMAGES["test"][0][0][:, :16, :])
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda root: None, "does not exist: it must hold cifar-10-batches-py"),
    "a file": (lambda root: root.touch(), "is not a folder"),
    "empty": (lambda root: root.mkdir(), "holds no CIFAR-10: expected cifar-10-batches-py/, or train"),
    "half batches": (_without("batches", "test_batch"), "is incomplete: it lacks test_batch"),
    "no batch 3": (_without("child", "cifar-10-batches-py/data_batch_3"), "lacks data_batch_3"),
    "half parquet": (_without("parquet", "test-00000-of-00001.parquet"), r"lacks test-\*.parquet"),
    "a shard short": (_without("shards", "data/train-00001-of-00003.parquet"), "lacks train-00001-of-00003.parquet"),
    "half folders": (_without("folders", "test"), "lacks test/"),
    "other half": (_without("folders", "train"), "lacks train/"),
    "class short in test": (_without("folders", "test/dog"), "differ in their classes: dog in only one"),
    "class short": (_without("folders", "train/dog", "test/dog"), "holds 9 class folders .*: expected airplane"),
    "class unknown": (_rename_class, "has class folder 'plane': expected airplane"),
    "not a pickle": (_with("batches", "test_batch", b"hello"), "test_batch is not a CIFAR-10 batch"),
    "truncated pickle": (_with("batches", "data_batch_2", _batch()[:5000]), "data_batch_2 is not a CIFAR-10 batch"),
    "not a dict": (_with("batches", "test_batch", pickle.dumps([1])), "expected a dict with data and labels"),
    "no data": (_with("batches", "test_batch", _batch(data=None)), "holds no images"),
    "float data": (_with("batches", "test_batch", _batch(data=np.zeros((30, 3072)))), "an array of uint8"),
    "wrong size": (_with("batches", "test_batch", _batch(data=np.zeros((30, 784), np.uint8))), "have 784 bytes"),
    "few labels": (_with("batches", "test_batch", _batch(labels=[1, 2])), "30 images but 2 labels"),
    "no labels": (_with("batches", "test_batch", _batch(labels=None)), "30 images but 0 labels"),
    "label 10": (_with("batches", "test_batch", _batch(labels=[0, 10] * 15)), "label 10 in row 1 .*has 0 to 9"),
    "label -1": (_parquet(labels=[3, -1], image=GOOD), "label -1 in row 1 .* out of range"),
    "label none": (_parquet(labels=[3, None], image=GOOD), "not whole numbers"),
    "label text": (_parquet(labels=["cat", "dog"], image=GOOD), "not whole numbers"),
    "label half": (_parquet(labels=[1.5, 2.0], image=GOOD), "not whole numbers"),
    "column names": (_parquet(image=GOOD, img="picture"), "has columns picture, label: expected img or image"),
    "no label": (_parquet(image=GOOD, label="target"), "has columns img, target: expected"),
    "no bytes": (_parquet(), "image in row 1 .* has no bytes"),
    "damaged bytes": (_parquet(image=GOOD[:400]), "cannot decode image in row 1 of"),
    "size 32x16": (_parquet(image=SMALL), "is 32x16 RGB: expected 32x32 RGB"),
    "alpha": (_parquet(image=files.png(IMAGES["test"][0][0], "RGBA")), "is 32x32 RGBA: expected 32x32 RGB"),
    "a gif": (_parquet(image=files.png(IMAGES["test"][0][0], "P", "GIF")), "not a PNG or JPEG"),
    "not parquet": (_with("parquet", "train-*", b"PAR1 no"), "cannot read .* as parquet"),
    "damaged png": (_with("folders", "test/*/7.png", GOOD[:300]), r"cannot decode image .*7\.png"),
    "text as png": (_with("folders", "test/*/7.png", b"hello"), r"7\.png: not a PNG or JPEG"),
    "small png": (_with("folders", "train/*/7.png", SMALL), r"7\.png is 32x16 RGB"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_give_one_clear_line(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    root = tmp_path / "copy"
    make(root)
    with pytest.raises(DataError, match=message) as caught:
        open_source("cifar10", root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train in .* holds 5 images: expected at least 10"):
        open_source("cifar10", files.write_parquet(tmp_path / "few", files.random_images(train=5)))
    with pytest.raises(DataError, match=r"test in .* holds 0 images: expected at least 1"):
        open_source("cifar10", files.write_batches(tmp_path / "none", files.random_images(test=0), protocol=5))


def test_an_archive_that_was_not_unpacked_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(DataError, match=r"unpack cifar-10-python\.tar\.gz there"):
        open_source("cifar10", tmp_path)


class _Attack:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cannot_run_code(protocol: int, tmp_path: Path) -> None:
    root = files.write_batches(tmp_path / "copy", IMAGES)
    marker = tmp_path / "ran"
    for attack in (
        _Attack(Path.touch, marker),
        _Attack(eval, f"open({str(marker)!r}, 'w')"),
        _Attack(getattr, 1, "real"),
    ):
        (root / "test_batch").write_bytes(pickle.dumps({"data": attack, "labels": []}, protocol=protocol))
        with pytest.raises(DataError, match="which no batch needs"):
            open_source("cifar10", root)
    assert not marker.exists()


def test_batches_written_by_python_2_are_read(tmp_path: Path) -> None:
    """The official files are protocol 2 with byte strings as text, which only Python 2 writes: built by hand here."""
    root = files.write_batches(tmp_path / "copy", IMAGES)
    x = IMAGES["test"][0]
    n = len(x).to_bytes(1, "little")
    pixels = x.tobytes()
    label = b"".join(b"K" + bytes([y]) for y in IMAGES["test"][1])
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + n + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    (root / "test_batch").write_bytes(b"\x80\x02}(U\x06labels](" + label + b"eU\x04data" + array + b"u.")
    found = open_source("cifar10", root).split("test")
    assert np.array_equal(found.images.numpy(), x)
    assert torch.equal(found.labels, torch.from_numpy(IMAGES["test"][1]))
