"""CIFAR-100 and ImageNet as everybody has them, RobustBench's images by its list, and places given to `load`."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from own_images import Pixels, flat, pixels, save, write_parquet

from ensemble_bench.data import imagenet, open_source
from ensemble_bench.errors import DataError


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
    # Folders with the archive's own name do not make a copy official.
    assert open_source("cifar100", tmp_path / "copy/cifar-100-python").name == "cifar-100-python-unofficial"


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
