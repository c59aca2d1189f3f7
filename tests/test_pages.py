"""Every number on a page is that of the records and of the benchmarks' results: all pages render again."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import render_pages as pages  # noqa: E402


@pytest.mark.parametrize("page", pages.PAGES)
def test_page_renders_again(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == pages.PAGES[page]()


@pytest.mark.parametrize(("page", "name"), pages.BLOCKS)
def test_block_renders_again(page: str, name: str) -> None:
    _, block, _ = pages.parts(ROOT / page, name)
    assert block == pages.BLOCKS[page, name]()


def test_every_block_is_known() -> None:
    """A page with a block that nothing renders would keep its numbers for ever."""
    files = [
        *ROOT.glob("*.md"),
        *(path for top in ("docs", "experiments", "leaderboards") for path in (ROOT / top).glob("*.md")),
    ]
    marked = {
        (str(path.relative_to(ROOT)), line[5:-4])
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("<!-- ") and not line.startswith("<!-- /")
    }
    assert marked == set(pages.BLOCKS)


def test_a_block_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    before, inside, after = pages.parts(page, "a")
    assert (inside, before + "new\n" + after) == ("old\n", "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n")


@pytest.mark.parametrize("text", ["", "<!-- a -->\n", 2 * "<!-- a -->\n<!-- /a -->\n"])
def test_a_block_that_is_not_there_once_is_named(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page\.md: not one block 'a'"):
        pages.parts(page, "a")
