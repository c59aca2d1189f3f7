"""Data sets in parquet files: every layout of the hubs, and what can be wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
from own_images import write_parquet

from ensemble_bench.data import open_source
from ensemble_bench.errors import DataError


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


@pytest.mark.parametrize(
    ("train", "homes"),
    [
        ("{}/train-00000-of-00001.parquet", ("coarse", "fine")),
        ("{}/train/0000.parquet", ("coarse", "fine")),
        ("all/{}/train.parquet", ("all/coarse", "all/fine")),
    ],
)
def test_two_data_sets_of_one_repository_are_not_one(train: str, homes: tuple[str, str], tmp_path: Path) -> None:
    for name in ("fine", "coarse"):
        write_parquet(tmp_path / train.format(name))
        write_parquet(tmp_path / train.format(name).replace("train", "test"))
    told = f"holds several data sets: {tmp_path / homes[0]} and {tmp_path / homes[1]} both have a test split"
    with pytest.raises(DataError, match=re.escape(told)):
        open_source(f"parquet:{tmp_path}")
    source = open_source(f"parquet:{tmp_path / homes[1]}")
    assert sum(len(source.split(part)) for part in ("train", "validation", "test")) == 60


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


def test_files_that_name_the_classes_differently_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", told={"kind": {"names": ["a", "b", "c"]}})
    for names, message in ((["a", "c", "b"], "class 1 'c': .*'b'"), (["a", "b", "c", "d"], "class 3 'd': .*None")):
        write_parquet(tmp_path / "train.parquet", told={"kind": {"names": names}})
        with pytest.raises(DataError, match=message) as caught:
            open_source(f"parquet:{tmp_path}")
        assert "\n" not in str(caught.value)
    write_parquet(tmp_path / "train.parquet")  # one without names says nothing else
    open_source(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        ("train", "holds 0 images for training: expected at least 1"),
        ("validation", "holds no validation images"),
    ],
)
def test_a_part_without_images_is_refused(empty: str, message: str, tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        n = 0 if part == empty else 30
        write_parquet(tmp_path / f"{part}.parquet", n=n, kind=np.arange(n) % 3)
    with pytest.raises(DataError, match=message):
        open_source(f"parquet:{tmp_path}")


def test_files_larger_than_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_parquet(tmp_path / "all.parquet")
    monkeypatch.setattr("ensemble_bench.data.memory.available", lambda: images.size)  # PNG of noise takes more
    monkeypatch.setattr("ensemble_bench.data.parquet._rows", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match=r"its encoded images take .* GiB of memory, .* are free: choose fewer images"):
        open_source(f"parquet:{tmp_path / 'all.parquet'}")


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
