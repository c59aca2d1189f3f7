"""ImageNet-1k as class folders, train/<wnid>/ and val/<wnid>/, at 224x224 as torchvision evaluates it."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ensemble_bench.data.arrange import clean_name, source_of, splits_of
from ensemble_bench.data.decode import Encoded
from ensemble_bench.data.folder import read_folders
from ensemble_bench.data.keep import decoded
from ensemble_bench.data.source import DataSource, given_folder
from ensemble_bench.errors import DataError
from ensemble_bench.registry.terms import TEST

CLASSES = 1000
RESIZE, CROP = 256, 224
ROBUSTBENCH = "imagenet-robustbench"
# RobustBench's own files: its images, a line each, "n01440764/ILSVRC2012_val_00000293.JPEG", and the classes' numbers.
LIST, NUMBERS = "helper_files/imagenet_test_image_ids.txt", "helper_files/imagenet_class_to_id_map.json"


def open_imagenet(data_dir: str | Path | None = None) -> DataSource:
    """Open ImageNet from `data_dir`, else from the folder in ENSEMBLE_BENCH_DATA; val/ is its test split.

    Without train/ it can be evaluated on. Classes are numbered in the order of their folders, as torchvision's weights
    expect. Raises DataError for data that are missing, damaged or too large for memory: all 1.3 million images take
    180 GiB, the 50,000 of val/ alone 7 (then leave train/ out of the folder).
    """
    root = _folder("imagenet", data_dir, "train/ and val/, or val/ alone")
    arranged, classes = read_folders(root, resize=RESIZE, crop=CROP)
    if len(classes) != CLASSES:
        raise DataError(f"{root} holds {len(classes)} class folders: ImageNet has {CLASSES} (others: folder:{root})")
    # There are many subsets, so that no copy is taken for the official images.
    source = source_of(arranged, dataset="imagenet", name=clean_name(root.name, "unofficial"), classes=classes)
    return replace(source, name=source.name if "imagenet" in source.name else f"imagenet-{source.name}")


def open_robustbench(data_dir: str | Path | None = None) -> DataSource:
    """Open the 5,000 validation images that RobustBench evaluates on, in its order, at 224x224 as it shows them.

    They are looked up by the list of the installed package robustbench, in the class folders of `data_dir` or its val/,
    or there without class folders, as the official archive has them; other images may lie beside them. Raises DataError
    where one is missing or damaged.
    """
    root = _folder(ROBUSTBENCH, data_dir, "val/<class>/, <class>/, or the files of the validation images")
    numbers: dict[str, int] = json.loads(_of_robustbench(NUMBERS))
    names = _of_robustbench(LIST).split()
    try:
        files = _found(root, names)
        labels = {TEST: np.array([numbers[name.partition("/")[0]] for name in names], dtype=np.int64)}
        images = {TEST: [Encoded(place=f"image {path}", read=path.read_bytes) for path in files]}
        chosen = splits_of(labels, str(root), in_order=True)
        arranged = decoded(root, files, images, labels, chosen, resize=RESIZE, crop=CROP)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    return source_of(arranged, dataset=ROBUSTBENCH, name=ROBUSTBENCH, classes=sorted(numbers, key=numbers.__getitem__))


def _folder(dataset: str, data_dir: str | Path | None, holding: str) -> Path:
    root = given_folder(data_dir)
    if root is None:
        raise DataError(f"{dataset} needs its folder of {holding}: --data-dir or ENSEMBLE_BENCH_DATA")
    return root


def _of_robustbench(file: str) -> str:
    """The text of a file of the package robustbench, which is not imported."""
    found = importlib.util.find_spec("robustbench")
    for place in (found and found.submodule_search_locations) or ():
        if (path := Path(place) / file).exists():
            return path.read_text(encoding="utf-8")
    raise DataError(f"{ROBUSTBENCH} needs the package robustbench with its {file}: `ensemble-bench doctor` says more")


def _found(root: Path, names: Sequence[str]) -> list[Path]:
    """The file of every name, in class folders or without; raises DataError where one is missing."""
    if not root.is_dir():
        raise DataError(f"data folder {root} {'is not a folder' if root.exists() else 'does not exist'}")
    base = root / "val" if (root / "val").is_dir() else root
    folders = any((base / name.partition("/")[0]).is_dir() for name in names)
    files = [base / (name if folders else name.partition("/")[2]) for name in names]
    if missing := [file for file in files if not file.exists()]:
        raise DataError(
            f"data folder {root} lacks {len(missing):,} of the {len(files):,} validation images that RobustBench "
            f"evaluates on, such as {missing[0].relative_to(root)}"
        )
    return files
