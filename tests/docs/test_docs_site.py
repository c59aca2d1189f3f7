"""The documentation's site builds without a warning and holds every page."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, PAGES, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        str(out / "trees"),
        str(DOCS),
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_there(site: Path) -> None:
    pages = {page.stem for page in DOCS.glob("*.md")}
    assert {page.stem for page in site.glob("*.html")} >= pages | {"search"}


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not any(mark in text for mark in ('src="http', "cdn.", 'rel="stylesheet" href="http')), page.name


def test_the_search_needs_no_server(site: Path, browser: Any) -> None:
    """It finds a page from a disk, and asks for nothing but files."""
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{(site / 'search.html').as_uri()}?q=masking")
    page.wait_for_selector("#search-results li a")
    assert "When a number looks too good" in page.inner_text("#search-results")
    assert all(url.startswith(("file:", "data:")) for url in asked)
    page.close()


def test_every_command_has_its_options(site: Path) -> None:
    text = (site / "command-line.html").read_text(encoding="utf-8")
    assert "--train-attack" in text
    assert 'id="ensemble-bench-leaderboard-compare"' in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
