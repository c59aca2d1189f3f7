"""Names of data sets that are places: which forms there are, and what can be wrong with them."""

from pathlib import Path

import pytest
from own_images import flat

from ensemble_bench.data import open_source
from ensemble_bench.errors import DataError, InvalidValueError, UnknownNameError
from ensemble_bench.registry import check_data
from ensemble_bench.registry.places import place_of


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


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "~nobody-here/x"), ("folder:~nobody-here/x", None)])
def test_the_home_of_nobody_does_not_exist(name: str, folder: str | None) -> None:
    with pytest.raises(DataError, match=r"~nobody-here/x does not exist"):
        open_source(name, folder)


def test_a_copy_is_not_named_like_a_registered_data_set(tmp_path: Path) -> None:
    assert open_source(f"folder:{flat(tmp_path / 'cifar10')}").name == "cifar10-folder"
