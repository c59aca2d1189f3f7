"""CIFAR-10 (Krizhevsky, 2009) from the official archive, from hub parquet or from folders of image files."""

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ensemble_bench.data.arrange import file_name, is_taken
from ensemble_bench.data.cache import cache_dir, content_key, read_entry, write_entry
from ensemble_bench.data.layouts import BATCHES, CLASSES, Layout, find_layout
from ensemble_bench.data.source import DataSource, Rows, fingerprint, given_folder, stratified_draw
from ensemble_bench.data.unpickle import first_line
from ensemble_bench.errors import DataError
from ensemble_bench.files import scratch_folder

# Of the official training images; used for every copy, so that models of two copies are normalised alike.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
VALIDATION_SIZE = 5_000
# The batches' published sums, as torchvision.datasets.CIFAR10 lists them.
OFFICIAL_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def open_cifar10(data_dir: str | Path | None = None) -> DataSource:
    """Open CIFAR-10 from `data_dir`, else from the folder in ENSEMBLE_BENCH_DATA, else download the official archive.

    The official batches, recognised by their content, are named "cifar10"; any other copy is named by its folder.
    Images keep the order of the files (parquet: of the rows; image files: of the numbers in their names), their
    ids count from 0 in it, and 5,000 training images (at most a tenth) are drawn for validation with equal class
    shares. Raises DataError for a folder that is missing, incomplete or damaged, and for a failed download.
    """
    root = given_folder(data_dir) or _download()
    try:
        layout = find_layout(root)
        tensors, notes = _decoded(layout)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    return DataSource(
        dataset="cifar10",
        name="cifar10" if notes["official"] == "yes" else _copy_name(root),
        classes=CLASSES,
        image_shape=(3, 32, 32),
        mean=MEAN,
        std=STD,
        default_eps=8 / 255,
        scale=255,
        fingerprint=notes["fingerprint"],
        read=lambda split: _split(tensors, split),
    )


def _decoded(layout: Layout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return all images and labels of `layout`, and notes on them, from the cache if they are there."""
    key = content_key(layout.root, layout.files, layout=layout.kind)
    kept = read_entry(key)
    if kept is not None and _is_whole(*kept):
        return kept
    tensors: dict[str, Tensor] = {}
    for split, paths in (("train", layout.train), ("test", layout.test)):
        images, labels = layout.read(paths)
        # Validation takes a tenth of train, so it needs ten images.
        fewest = 10 if split == "train" else 1
        if len(images) < fewest:
            raise DataError(f"{split} in {layout.root} holds {len(images)} images: expected at least {fewest}")
        tensors |= {f"{split}_images": images, f"{split}_labels": labels}
    notes = {"fingerprint": _fingerprint(tensors), "official": "yes" if _is_official(layout) else "no"}
    write_entry(key, tensors, notes)
    return tensors, notes


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    return fingerprint({split: (tensors[f"{split}_images"], tensors[f"{split}_labels"]) for split in ("train", "test")})


def _is_whole(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> bool:
    """Whether a cached entry is what was written: one wrong bit would be other images under the same fingerprint."""
    try:
        return _fingerprint(tensors) == notes["fingerprint"] and notes["official"] in ("yes", "no")
    except (KeyError, ValueError, RuntimeError):
        return False


def _split(tensors: dict[str, Tensor], split: str) -> Rows:
    part = "test" if split == "test" else "train"
    images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
    rows = Rows(images=images, labels=labels, ids=torch.arange(len(labels)))
    if split == "test":
        return rows
    validation, train = stratified_draw(labels, min(VALIDATION_SIZE, len(labels) // 10))
    return rows.at(validation if split == "validation" else train)


def _is_official(layout: Layout) -> bool:
    """Whether these are the official batches, byte for byte.

    Only they have published sums: other layouts of the same pixels count as copies.
    """
    return layout.kind == "batches" and all(
        hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == OFFICIAL_MD5[path.name]
        for path in layout.files
    )


def _copy_name(root: Path) -> str:
    """Return the name of an unofficial copy in `root`: its folder's, unless that is the name of other images."""
    name = file_name(root.name)
    return "cifar10-unofficial" if is_taken(name) else name


def _download() -> Path:
    """Return the folder of the downloaded official archive, downloading it the first time."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    home = cache_dir() / "official"
    if (home / BATCHES).is_dir():
        return home
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Moved into place when complete, so that an interrupted download is never taken for the data.
        with scratch_folder(home / BATCHES) as folder:
            download_and_extract_archive(CIFAR10.url, str(folder), md5=CIFAR10.tgz_md5)
            if not (home / BATCHES).is_dir():
                (folder / BATCHES).rename(home / BATCHES)
    # URLError and timeouts are OSErrors; a wrong sum is a RuntimeError; an interrupted stream an EOFError.
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        place = f"unpack {CIFAR10.url} into {home}, or name a folder that holds CIFAR-10"
        means = "by --data-dir or ENSEMBLE_BENCH_DATA"
        raise DataError(f"cannot download CIFAR-10 ({first_line(error)}): {place} {means}") from error
    return home
