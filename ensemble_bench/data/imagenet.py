"""ImageNet-1k as class folders, train/<wnid>/ and val/<wnid>/, at 224x224 as torchvision evaluates it."""

from dataclasses import replace
from pathlib import Path

from ensemble_bench.data.arrange import clean_name, source_of
from ensemble_bench.data.folder import read_folders
from ensemble_bench.data.source import DataSource, given_folder
from ensemble_bench.errors import DataError

CLASSES = 1000
RESIZE, CROP = 256, 224


def open_imagenet(data_dir: str | Path | None = None) -> DataSource:
    """Open ImageNet from `data_dir`, else from the folder in ENSEMBLE_BENCH_DATA; val/ is its test split.

    Without train/ it can be evaluated on. Classes are numbered in the order of their folders, as torchvision's weights
    expect. Raises DataError for data that are missing, damaged or too large for memory: all 1.3 million images take
    180 GiB, the 50,000 of val/ alone 7 (then leave train/ out of the folder).
    """
    root = given_folder(data_dir)
    if root is None:
        raise DataError(
            "imagenet needs its folder of train/ and val/, or val/ alone: --data-dir or ENSEMBLE_BENCH_DATA"
        )
    arranged, classes = read_folders(root, resize=RESIZE, crop=CROP)
    if len(classes) != CLASSES:
        raise DataError(f"{root} holds {len(classes)} class folders: ImageNet has {CLASSES} (others: folder:{root})")
    # There are many subsets, so that no copy is taken for the official images.
    source = source_of(arranged, dataset="imagenet", name=clean_name(root.name, "unofficial"), classes=classes)
    return replace(source, name=source.name if "imagenet" in source.name else f"imagenet-{source.name}")
