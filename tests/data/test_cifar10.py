"""CIFAR-10's name, splits and cache, on small copies and on the real images."""

import hashlib
import os
import random
import subprocess
import sys
import urllib.error
from pathlib import Path

import cifar_files as files
import pytest
import torch

from ensemble_bench.data import cifar10, layouts, load, open_source
from ensemble_bench.data.cache import cache_dir
from ensemble_bench.errors import DataError

IMAGES = files.random_images()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("ENSEMBLE_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(layouts, "_decode", fail)


# ── splits ──


def test_splits_of_a_small_copy(tmp_path: Path) -> None:
    source = open_source("cifar10", files.write_parquet(tmp_path / "small", IMAGES))
    train, validation, test = (source.split(name) for name in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (90, 10, 30)
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(100))
    assert validation.labels.bincount().tolist() == [1] * 10
    assert torch.equal(train.labels, torch.from_numpy(IMAGES["train"][1])[train.ids])
    assert (source.dataset, source.name, source.scale) == ("cifar10", "small", 255)
    assert (source.classes, source.image_shape, source.default_eps) == (files.CLASSES, (3, 32, 32), 8 / 255)


def test_load_reads_the_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLE_BENCH_DATA", str(files.write_parquet(tmp_path / "named", IMAGES)))
    x, y = load("cifar10", n=4)
    assert torch.equal(x, torch.from_numpy(IMAGES["test"][0][:4]) / 255)
    assert torch.equal(y, torch.from_numpy(IMAGES["test"][1][:4]))
    other = files.write_parquet(tmp_path / "given", files.random_images(seed=1))
    assert open_source("cifar10", str(other)).name == "given"


# ── the name ──


def test_official_sums_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10

    assert dict([*CIFAR10.train_list, *CIFAR10.test_list]) == cifar10.OFFICIAL_MD5


@pytest.mark.parametrize("child", [False, True])
def test_official_batches_are_known_by_content(
    child: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my-cifar"
    folder = files.write_batches(root / "cifar-10-batches-py" if child else root, IMAGES)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(cifar10, "OFFICIAL_MD5", sums)
    before = open_source("cifar10", root)
    assert before.name == "cifar10"
    # One pixel of one image is enough to lose the name.
    changed = IMAGES["test"][0].copy()
    changed[7, 0, 0, 0] ^= 1
    edited = {"data": changed.reshape(30, -1), "labels": IMAGES["test"][1].tolist()}
    files.write_batch(folder / "test_batch", edited)
    after = open_source("cifar10", root)
    assert after.name == "my-cifar"
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("cifar10-jpeg", "cifar10-jpeg"),
        ("my cifar (2)", "my-cifar-2"),
        ("cifar10", "cifar10-unofficial"),
        ("CIFAR-10", "cifar10-unofficial"),
        ("cifar-10-batches-py", "cifar10-unofficial"),
        ("digits", "cifar10-unofficial"),
        ("cifar100", "cifar10-unofficial"),
        ("cifar-100-python", "cifar10-unofficial"),
        ("ImageNet", "cifar10-unofficial"),
        ("日本", "cifar10-unofficial"),
    ],
)
def test_copies_are_named_by_their_folder(folder: str, name: str, tmp_path: Path) -> None:
    assert open_source("cifar10", files.write_batches(tmp_path / folder, IMAGES)).name == name


def test_a_relative_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.write_batches(tmp_path / "here", IMAGES))
    assert open_source("cifar10", ".").name == "here"


# ── the cache ──


def test_second_open_decodes_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files.write_folders(tmp_path / "copy", IMAGES)
    first = open_source("cifar10", root)
    assert [path.suffix for path in (cache / "decoded").iterdir()] == [".safetensors"]
    _forbid_decoding(monkeypatch)
    again = open_source("cifar10", root)
    assert again.fingerprint == first.fingerprint
    for split in ("train", "validation", "test"):
        assert torch.equal(again.split(split).images, first.split(split).images)
        assert torch.equal(again.split(split).labels, first.split(split).labels)
    # A copy elsewhere has the same content, and a name of its own.
    moved = root.rename(tmp_path / "moved")
    assert open_source("cifar10", moved).name == "moved"


def test_edited_sources_are_decoded_again(cache: Path, tmp_path: Path) -> None:
    root = files.write_folders(tmp_path / "copy", IMAGES)
    prints = [open_source("cifar10", root).fingerprint]
    (path,) = root.glob("test/*/3.png")
    stat = path.stat()
    content = files.png(255 - IMAGES["test"][0][3])
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    prints.append(open_source("cifar10", root).fingerprint)
    # Another label for the same bytes: the file moves to another class.
    path.rename(root / "test" / ("cat" if path.parent.name != "cat" else "dog") / path.name)
    prints.append(open_source("cifar10", root).fingerprint)
    assert len(set(prints)) == 3


@pytest.mark.parametrize("left", [0, 5, 1000, -1])
def test_half_written_entries_are_made_again(left: int, cache: Path, tmp_path: Path) -> None:
    root = files.write_parquet(tmp_path / "copy", IMAGES)
    first = open_source("cifar10", root)
    (entry,) = (cache / "decoded").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:left])
    again = open_source("cifar10", root)
    assert torch.equal(again.split("test").images, first.split("test").images)
    assert entry.stat().st_size == len(whole)
    assert list(entry.parent.iterdir()) == [entry]


def test_a_wrong_bit_in_an_entry_gives_no_other_images(cache: Path, tmp_path: Path) -> None:
    root = files.write_parquet(tmp_path / "copy", IMAGES)
    first = open_source("cifar10", root)
    (entry,) = (cache / "decoded").iterdir()
    whole = entry.read_bytes()
    draw = random.Random(0)
    for bit in [*draw.sample(range(8 * 1000), 30), *draw.sample(range(8 * len(whole)), 30)]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        entry.write_bytes(flipped)
        again = open_source("cifar10", root)
        assert (again.name, again.fingerprint) == (first.name, first.fingerprint)
        for split in ("train", "test"):
            assert torch.equal(again.split(split).images, first.split(split).images)
            assert torch.equal(again.split(split).labels, first.split(split).labels)


def test_without_a_writable_cache_it_warns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ENSEMBLE_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="decoded images are not kept"):
        source = open_source("cifar10", files.write_parquet(tmp_path / "copy", IMAGES))
    assert len(source.split("test")) == 30


def test_cache_dir_is_the_users_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENSEMBLE_BENCH_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "ensemble-bench"


# ── the download ──


def test_without_network_the_error_says_what_to_put_where(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.utils as downloads

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(downloads, "download_and_extract_archive", offline)
    with pytest.raises(DataError, match=r"no route to host.*unpack https.*tar\.gz into .*official, or name") as caught:
        open_source("cifar10")
    assert "\n" not in str(caught.value)
    assert list((cache / "official").iterdir()) == []
    # What the message asks for is enough.
    files.write_batches(cache / "official" / "cifar-10-batches-py", IMAGES)
    assert len(open_source("cifar10").split("test")) == 30


def test_a_download_happens_once_and_is_official(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.utils as downloads

    calls: list[str] = []

    def download(url: str, folder: str, md5: str) -> None:
        calls.append(md5)
        written = files.write_batches(Path(folder) / "cifar-10-batches-py", IMAGES)
        sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in written.iterdir()}
        monkeypatch.setattr(cifar10, "OFFICIAL_MD5", sums)

    monkeypatch.setattr(downloads, "download_and_extract_archive", download)
    assert [open_source("cifar10").name for _ in range(2)] == ["cifar10", "cifar10"]
    assert calls == ["c58f30108f718f92721af3b95e74349a"]


# ── the real images ──


def test_real_images(cifar10_jpeg_dir: Path) -> None:
    source = open_source("cifar10", cifar10_jpeg_dir)
    assert source.name == "cifar10-jpeg"
    test, validation = source.split("test"), source.split("validation")
    assert (len(test), len(validation)) == (10_000, 5_000)
    assert test.labels.bincount().tolist() == [1_000] * 10
    assert validation.labels.bincount().tolist() == [500] * 10
    x, _ = validation.batch(slice(None))
    for channel in range(3):
        assert abs(x[:, channel].mean().item() - source.mean[channel]) < 0.01
        assert abs(x[:, channel].std().item() - source.std[channel]) < 0.01
    train = source.split("train")
    assert len(train) == 45_000
    assert not set(train.ids.tolist()) & set(validation.ids.tolist())


def test_real_rows_are_what_pandas_and_pillow_read(cifar10_jpeg_dir: Path) -> None:
    import io

    import numpy as np
    import pandas as pd
    from PIL import Image

    table = pd.read_parquet(cifar10_jpeg_dir / "test-00000-of-00001.parquet")
    x, y = load("cifar10", n=50, data_dir=cifar10_jpeg_dir)
    for row in (0, 1, 49):
        pixels = np.asarray(Image.open(io.BytesIO(table["img"][row]["bytes"])), dtype=np.float32)
        assert np.array_equal(x[row].numpy(), pixels.transpose(2, 0, 1) / 255)
        assert y[row] == table["label"][row]


def test_real_images_open_quickly_the_second_time(cifar10_jpeg_dir: Path) -> None:
    open_source("cifar10", cifar10_jpeg_dir)
    # Processor time: how long a busy machine lets it wait says nothing about it.
    code = (
        "import sys, time; from ensemble_bench.data import open_source; start = time.process_time();"
        "open_source('cifar10', sys.argv[1]).split('test').first(500).batch(slice(None));"
        "print(time.process_time() - start)"
    )
    run = [sys.executable, "-c", code, str(cifar10_jpeg_dir)]
    assert float(subprocess.run(run, capture_output=True, text=True, check=True).stdout) < 1
