"""What tests read off the site: parsed pages, tables as texts, and published models to render."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ensemble_bench.leaderboard.verified import Verdict, Verified
from ensemble_bench.records import NamedWarning, Record, write_record
from ensemble_bench.records.conditions import precision_of

VOID = {"meta", "link", "input", "br", "img", "hr", "wbr"}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}


@dataclass
class Page(HTMLParser):
    """A page as its elements, (tag, attributes), its headings, and its tables, a row a list of (text, attributes).

    `lines` are the attributes of the rows, with those of the board around them.
    """

    path: Path
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    tables: list[list[list[tuple[str, dict[str, str | None]]]]] = field(default_factory=list)
    lines: list[list[dict[str, str | None]]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    text: str = ""
    inline: dict[str, list[str]] = field(default_factory=lambda: {"script": [], "style": []})

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.board: dict[str, str | None] = {}
        self.feed(self.path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, f"{self.path}: never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section" and attrs and dict(attrs).get("class") == "board":
            self.board = dict(attrs)
        if tag == "table":
            self.tables.append([])
            self.lines.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.lines[-1].append(dict(attrs) | self.board)
        elif tag in HEADINGS:
            self.headings.append("")
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(("", dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{self.path}: </{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inline:
            self.inline[self.open[-1]].append(data)
            return
        self.text += data
        if HEADINGS & set(self.open):
            self.headings[-1] += data
        if {"td", "th"} & set(self.open):
            cell, attributes = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (" ".join(f"{cell} {data}".split()), attributes)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of this kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def models(self) -> Iterator[dict[str, tuple[str, str | None]]]:
        """Lines of all boards that are of one model, with data set and threat of their board."""
        for table, lines in enumerate(self.lines):
            for row, attributes in zip(self.rows(table), lines[1:], strict=True):
                if "data-model" in attributes:
                    board = {key: (str(attributes[f"data-{key}"]), None) for key in ("data", "threat")}
                    yield row | board

    def rows(self, table: int = 0) -> Iterator[dict[str, tuple[str, str | None]]]:
        """Lines of a table: by the column's name the cell's text and its data-value."""
        head, *lines = self.tables[table]
        for line in lines:
            yield {
                name: (text, attributes.get("data-value"))
                for (name, _), (text, attributes) in zip(head, line, strict=True)
            }


def publish(
    root: Path,
    name: str,
    record: Record,
    *,
    card: str | None = None,
    weights: bytes | None = None,
    verified: Mapping[str, Any] | None = None,
) -> Path:
    """Put a record, and what is published with it, where a leaderboard holds them; returns the board."""
    board = root / record.data_name / "linf8of255"
    write_record(record, board / "records" / name / "evaluations" / record.id)
    home = board / "weights" / name
    home.mkdir(parents=True, exist_ok=True)
    if card is not None:
        (home / "README.md").write_text(card, encoding="utf-8")
    if weights is not None:
        (home / "best.safetensors").write_bytes(weights)
        (home / "best.json").write_text("{}")
    # Without the file the model is not shown; one without a verdict in it is.
    none = {"schema": 2, "weights_hash": record.weights_hash, "verdicts": [], "flags": [], "versions": {}}
    (board / "verified").mkdir(exist_ok=True)
    told = none | {"earlier": None} if verified is None else verified
    (board / "verified" / f"{name}.json").write_text(json.dumps(told))
    return board


def verdicts_on(*records: Record, images: int | None = None, flags: Sequence[NamedWarning] = (), **about: Any) -> Any:
    """verified/NAME.json of an operator who evaluated these records of one model; `about` changes its verdicts."""
    verdicts = tuple(
        Verdict(
            **{
                "record": record.id,
                "suite": record.suite,
                "n": record.n,
                "images": images or record.n,
                "seed": record.seed,
                "precision": precision_of(record),
                "status": "verified",
                "by": "the operator",
                "date": "2026-01-02",
                **about,
            }
        )
        for record in records
    )
    made = Verified(weights_hash=records[0].weights_hash, verdicts=verdicts, flags=tuple(flags), versions={})
    return made.as_dict()


def check_safe(page: Page, site: Path) -> None:
    """Nothing runs but our own script, nothing is loaded, and every link inside the site leads to a file or a place."""
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, texts in page.inline.items():
        for text in texts:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for tag, attributes in page.elements:
        if tag == "img":
            assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", str(attributes.pop("src")))
        assert tag not in ("iframe", "object", "embed", "base", "audio", "video", "image", "use"), page.path
        assert not any(name.startswith("on") or name in ("src", "srcset", "style", "action") for name in attributes)
        target = attributes.get("href") or ""
        if tag == "a" and target.startswith(("https://", "http://")):
            continue
        if tag == "link":
            assert target == "data:,"
        elif target.startswith("#"):
            assert target[1:] in ids
        elif tag == "a":
            assert (page.path.parent / unquote(target.partition("#")[0])).resolve().is_relative_to(site)
            assert (page.path.parent / unquote(target.partition("#")[0])).is_file(), target
        else:
            assert not target
