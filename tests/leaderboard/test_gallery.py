"""Galleries: what is shown is what was saved, of images that an attack broke, on the page of the model it is of."""

import base64
import csv
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from site_pages import Page, check_safe, publish
from synthetic_runs import make_record, write

from ensemble_bench.cli import run
from ensemble_bench.data import DataSource, open_source
from ensemble_bench.errors import InvalidValueError, RecordError
from ensemble_bench.leaderboard.gallery import GALLERY_FILE, read_gallery, write_gallery
from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.leaderboard.site.models import read_models
from ensemble_bench.records import Record
from ensemble_bench.submissions.gallery import make_gallery

N = 12


@pytest.fixture(scope="module")
def source() -> DataSource:
    """The digits."""
    return open_source("digits", None)


@pytest.fixture(scope="module")
def record(source: DataSource) -> Record:
    """A record on the digits."""
    made, _ = make_record([True] * 3, {"pgd5": [True, False, False]}, data_hash=source.fingerprint)
    return made


def saved(folder: Path, source: DataSource, record: Record, **about: Any) -> Path:
    """Adversarial images as `evaluate --save-images` writes them: every fourth row 8 levels up, some unbroken."""
    folder.mkdir()
    told = {"weights_hash": record.weights_hash, "data_hash": record.data_hash, "split": "test", "suite": "quick"}
    told |= {"threat": {"norm": "linf", "eps": record.threat.eps}, "evaluation": record.id}
    (folder / "images.json").write_text(json.dumps(told | about))
    rows: list[Mapping[str, Any]] = []
    images = source.split("test").first(N)
    for place in range(N):
        pixels = levels(source, place)
        pixels[::4] = np.minimum(pixels[::4].astype(int) + 8, 255)
        name, label = f"{place:06}.png", int(images.labels[place])
        Image.fromarray(pixels).save(folder / name)
        by = ("pgd20", "clean", "", "")[place % 4]
        row = {"file": name, "id": int(images.ids[place]), "label": label, "broken": int(by != ""), "broken_by": by}
        rows.append({**row, "prediction": (label + 1) % 10, "in_ball": 1})
    with (folder / "images.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


def levels(source: DataSource, place: int) -> Any:
    """A clean test image in 8 bits."""
    images = source.split("test")
    return np.round(images.images[place, 0].numpy() / images.scale * 255).astype(np.uint8)


def pixels_of(text: str) -> Any:
    """The pixels of a PNG file in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)


def test_it_shows_what_was_saved_of_images_that_an_attack_broke(
    tmp_path: Path, source: DataSource, record: Record
) -> None:
    write(record, make_record([True], {"pgd5": [True]})[1], tmp_path / "runs" / record.run)
    folder = saved(tmp_path / "adv", source, record)
    path = make_gallery(folder, root=tmp_path / "runs", count=2)
    assert path.name == GALLERY_FILE
    assert (path.parent / "record.json").is_file()
    gallery = read_gallery(path)
    with (folder / "images.csv").open() as file:
        rows = {int(row["id"]): row for row in csv.DictReader(file)}
    assert len(gallery.pictures) == 2
    for picture in gallery.pictures:
        row = rows[picture.id]
        assert row["broken_by"] == picture.broken_by == "pgd20"
        assert (picture.label, picture.prediction) == (row["label"], row["prediction"])
        place = int(row["file"].removesuffix(".png"))
        clean, attacked = pixels_of(picture.clean), pixels_of(picture.adversarial)
        assert (clean == levels(source, place)).all()
        assert (attacked == np.asarray(Image.open(folder / row["file"]))).all()
        difference = pixels_of(picture.difference) - 128
        assert difference == pytest.approx(gallery.amplified * (attacked - clean), abs=gallery.amplified)


def test_the_page_of_that_model_alone_shows_it(tmp_path: Path, source: DataSource, record: Record) -> None:
    board = publish(tmp_path / "boards", "mine", record)
    other, _ = make_record([True], {"pgd5": [True]}, weights_hash="sha256:other", data_hash=source.fingerprint)
    publish(tmp_path / "boards", "yours", other)
    folder = saved(tmp_path / "adv", source, record)
    path = make_gallery(folder, root=tmp_path / "boards")
    assert path == board / "gallery" / "mine.json"
    (board / "gallery" / "yours.json").write_bytes(path.read_bytes())  # of other weights: it says nothing of these
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    for name, shown in (("mine", True), ("yours", False)):
        page = Page(next(site.glob(f"models/*/*/{name}/index.html")))
        check_safe(page, site)
        assert bool(page.all("img")) == ("Adversarial images" in page.headings) == shown
        assert all(image["alt"] for image in page.all("img"))
        assert len({image["alt"] for image in page.all("img")}) == len(page.all("img"))


def test_it_is_found_by_any_record_that_it_is_of(tmp_path: Path, source: DataSource, record: Record) -> None:
    """A board keeps one file a model, some of whose records may be of data that were changed since."""
    publish(tmp_path / "boards", "mine", record)
    path = make_gallery(saved(tmp_path / "adv", source, record), root=tmp_path / "boards")
    other, _ = make_record([True] * 4, {"pgd5": [True] * 4}, data_hash="sha256:changed", suite="strongest")
    publish(tmp_path / "boards", "mine", other)
    write_gallery(replace(read_gallery(path), amplified=127.0), path)
    (model,) = read_models(tmp_path / "boards")
    assert (model.record, model.gallery) == (other, read_gallery(path))
    page = Page(build_site(tmp_path / "boards", tmp_path / "site").parent / model.folder / "index.html")
    assert "shown about 127 times as large" in " ".join(page.text.split())


def test_large_images_are_shown_smaller(tmp_path: Path, source: DataSource, record: Record, monkeypatch: Any) -> None:
    monkeypatch.setattr("ensemble_bench.submissions.gallery.WIDEST", 4)
    publish(tmp_path / "boards", "mine", record)
    gallery = read_gallery(make_gallery(saved(tmp_path / "adv", source, record), root=tmp_path / "boards"))
    assert gallery.shrunk == 2
    assert {pixels_of(picture.clean).shape for picture in gallery.pictures} == {(4, 4)}


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"weights_hash": "sha256:others"}, "no record of the model of"),
        ({"threat": {"norm": "l2", "eps": 0.5}}, "no record of the model of"),
        (None, "expected a folder of PNG files"),
    ],
)
def test_what_is_no_gallery_is_one_line(
    tmp_path: Path,
    source: DataSource,
    record: Record,
    about: dict[str, Any] | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(tmp_path / "boards", "mine", record)
    folder = tmp_path if about is None else saved(tmp_path / "adv", source, record, **about)
    assert run(["leaderboard", "gallery", str(folder), "--root", str(tmp_path / "boards")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_images_that_no_attack_broke_make_none(tmp_path: Path, source: DataSource, record: Record) -> None:
    publish(tmp_path / "boards", "mine", record)
    folder = saved(tmp_path / "adv", source, record)
    table = folder / "images.csv"
    table.write_text(table.read_text().replace("pgd20", "clean"))
    with pytest.raises(InvalidValueError, match="no image that an attack broke"):
        make_gallery(folder, root=tmp_path / "boards")


def edited(**changes: str) -> Callable[[Path], object]:
    """Change fields of every row of the table of a folder."""

    def edit(folder: Path) -> None:
        with (folder / "images.csv").open() as file:
            rows = [row | changes for row in csv.DictReader(file)]
        with (folder / "images.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    return edit


def redrawn(pixels: Any) -> Callable[[Path], object]:
    """Have every image of a folder hold these pixels, or these bytes."""

    def draw(folder: Path) -> None:
        for path in folder.glob("*.png"):
            if isinstance(pixels, bytes):
                path.write_bytes(pixels)
            else:
                Image.fromarray(pixels).save(path)

    return draw


def written(name: str, text: str) -> Callable[[Path], object]:
    """Have a file of a folder hold this text."""
    return lambda folder: (folder / name).write_text(text)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "an id of letters": (edited(id="x"), "expected a folder of PNG files"),
    "an id that is none": (edited(id="99999"), "the image or a class of 000000.png is none of digits"),
    "a label that is none": (edited(label="10"), "is none of digits"),
    "the class before the first": (edited(prediction="-1"), "is none of digits"),
    "a file elsewhere": (edited(file="../adv/000000.png"), "expected a folder of PNG files"),
    "another size": (redrawn(np.zeros((5, 5), np.uint8)), "is 5x5 L: expected 8 bits"),
    "more channels": (redrawn(np.zeros((8, 8, 4), np.uint8)), "is 8x8 RGBA: expected"),
    "16 bits": (redrawn(np.zeros((8, 8), np.uint16)), "is 8x8 I;16: expected 8 bits"),
    "damaged": (redrawn(b"\x89PNG\r\n\x1a\n"), "not a PNG file"),
    "a bomb": (
        redrawn(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))),
        "not a PNG file",
    ),
    "a list": (written("images.json", '["weights_hash"]'), "expected a folder of PNG files"),
    "deep": (written("images.json", "[" * 100_000), "expected a folder of PNG files"),
    "a short row": (
        written("images.csv", "file,id,label,broken,broken_by,prediction\na.png,1,2,1,ifgsm5\n"),
        "expected a folder of PNG files",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILT.values(), ids=SPOILT)
def test_a_folder_of_somebody_elses_is_read_or_named_in_one_line(
    tmp_path: Path, source: DataSource, record: Record, spoil: Callable[[Path], object], said: str
) -> None:
    board = publish(tmp_path / "boards", "mine", record)
    folder = saved(tmp_path / "adv", source, record)
    spoil(folder)
    with pytest.raises(InvalidValueError, match=said):
        make_gallery(folder, root=tmp_path / "boards")
    assert not (board / "gallery").exists()


@pytest.mark.parametrize("change", ["{", '{"schema": 9}', "script"])
def test_a_broken_gallery_is_named(tmp_path: Path, source: DataSource, record: Record, change: str) -> None:
    board = publish(tmp_path / "boards", "mine", record)
    path = make_gallery(saved(tmp_path / "adv", source, record), root=tmp_path / "boards")
    if change == "script":
        found = read_gallery(path)
        picture = found.pictures[0]
        script = base64.b64encode(b"<script>alert(1)</script>").decode()
        write_gallery(
            type(found)(**{**vars(found), "pictures": (type(picture)(**{**vars(picture), "clean": script}),)}), path
        )
    else:
        path.write_text(change)
    with pytest.raises(RecordError, match=r"gallery/mine\.json: not a gallery"):
        build_site(board.parents[1], tmp_path / "site")
