"""The site in a real browser, from file://: sort, filter, search, open a model, download, at two widths."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import build_appendix, build_runs, build_sweep

from ensemble_bench.leaderboard.site import build_site

DESKTOP, PHONE = 1280, 390
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of three models, one of them with two seeds, and a series over eps."""
    root = build_runs(tmp_path_factory.mktemp("runs"), ("baseline", "singleadv", "ensemble2adv"), n=60)
    build_runs(root, ("baseline",), n=60, seeds=(1,), points=3)
    build_appendix(root, "ensemble2adv", members=2, n=40)
    return build_site(build_sweep(root, ("singleadv",), n=50), tmp_path_factory.mktemp("out") / "site").parent


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Open]:
    """Opens a page of the site; at the end nothing but files was asked for, and the browser had nothing to complain."""
    contexts, wrong = [], []

    def requested(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            wrong.append(request.url)

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def open_page(name: str = "index.html", *, width: int = DESKTOP, scheme: str = "light") -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("request", requested)
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((site / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def column(page: Any, number: int, board: str = "digits, linf 8/255") -> list[str]:
    """What the first rows of a board's shown lines say in a column, for machines."""
    script = f"""table => [...table.tBodies].filter(body => !body.hidden)
        .map(body => body.rows[0].cells[{number}].dataset.value)"""
    values: list[str] = table_of(page, board).locator("table").evaluate(script)
    return values


def table_of(page: Any, board: str = "digits, linf 8/255") -> Any:
    """The table of a board."""
    return page.get_by_role("region", name=f"Table of {board}", exact=True)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_column_sorts_both_ways(visit: Open, width: int) -> None:
    page = visit(width=width)
    table = table_of(page)
    for _ in range(2):
        table.get_by_role("button", name="Robust %").click()
        found = [float(value) for value in column(page, 2)]
        way = table.get_by_role("columnheader", name="Robust %").get_attribute("aria-sort")
        assert found == sorted(found, reverse=way == "descending")
        assert len(set(found)) > 2
    assert way == "ascending"
    table.get_by_role("button", name="Model").press("Enter")
    assert column(page, 1) == sorted(column(page, 1))
    assert page.locator("[aria-sort]").count() == 1


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_seeds_open_by_mouse_and_keyboard(visit: Open, width: int) -> None:
    page = visit(width=width)
    opener = page.get_by_role("button", name="baseline-digits-tiny")
    seed = page.get_by_role("link", name="baseline-digits-tiny-s1")
    assert opener.get_attribute("aria-expanded") == "false"
    assert not seed.is_visible()
    opener.press("Enter")
    assert opener.get_attribute("aria-expanded") == "true"
    assert seed.is_visible()
    opener.click()
    assert not seed.is_visible()


def test_a_table_that_goes_on_says_so(visit: Open) -> None:
    assert visit(width=PHONE).get_by_text("More columns to the right").first.is_visible()
    assert not visit(width=DESKTOP).get_by_text("More columns to the right").first.is_visible()


def test_what_is_missing_comes_last(visit: Open) -> None:
    page = visit()
    page.get_by_label("each attack").check()
    place = table_of(page).locator("thead th").all_inner_texts().index("pgd500")
    for _ in range(2):
        table_of(page).get_by_role("button", name="pgd500").click()
        values = column(page, place)
        assert "" in values
        assert values.index("") == len([value for value in values if value])


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_filters_and_search_leave_what_fits(visit: Open, width: int) -> None:
    page = visit(width=width)
    count = page.get_by_role("status")
    assert count.inner_text() == "6 of 6 models"
    page.get_by_label("Threat").select_option("linf 16/255")
    assert count.inner_text() == "1 of 6 models"
    assert page.locator(".board figure:visible").count() == 1
    page.get_by_label("Threat").select_option("linf 8/255")
    assert count.inner_text() == "4 of 6 models"
    page.get_by_label("Search").fill("ENSEMBLE2adv small")
    assert column(page, 1) == ["ensemble2adv-digits-tiny-s0"]
    assert page.locator(".board .point:visible").count() == 0  # the chart is of another suite
    page.get_by_label("Search").fill("singleadv")
    assert (count.inner_text(), page.locator(".board .point:visible").count()) == ("1 of 6 models", 1)
    page.get_by_label("Search").fill("s1")  # of the seeds of a recipe all are shown
    assert count.inner_text() == "2 of 6 models"
    page.get_by_label("Search").fill("no such model")
    assert count.inner_text() == "0 of 6 models"
    assert page.get_by_label("Verified").count() == 0  # nothing to choose: none is


def test_each_attack_is_shown_when_asked_for(visit: Open) -> None:
    page = visit()
    header = table_of(page).get_by_role("columnheader", name="pgd20", exact=True)
    assert not header.is_visible()
    page.get_by_label("each attack").check()
    assert header.is_visible()


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_models_page_opens_and_leads_back(visit: Open, width: int) -> None:
    page = visit(width=width)
    page.get_by_role("link", name="ensemble2adv-digits-tiny-s0").first.click()
    assert page.get_by_role("heading", level=1).inner_text() == "ensemble2adv-digits-tiny-s0"
    assert page.get_by_role("rowheader", name="member2").is_visible()
    assert page.locator("polyline").first.is_visible()
    page.get_by_role("link", name="Leaderboard").click()
    assert page.get_by_role("heading", level=1).inner_text() == "Robustness leaderboard"


def test_the_table_downloads(visit: Open, site: Path) -> None:
    page = visit()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "leaderboard.csv"
    assert Path(download.value.path()).read_bytes() == (site / "leaderboard.csv").read_bytes()
    # From file:// a browser shows JSON instead.
    page.get_by_role("link", name="JSON").click()
    assert page.locator("pre").inner_text().strip() == (site / "leaderboard.json").read_text().strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_pages_fit_the_screen_and_can_be_read(visit: Open, site: Path, width: int, scheme: str) -> None:
    model = next(site.glob("models/*/*/ensemble2adv*/index.html")).relative_to(site).as_posix()
    for name in ("index.html", model):
        page = visit(name, width=width, scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = luminance(page, "body", "backgroundColor") < 0.1
        assert dark == (scheme == "dark")
        for selector in ("body", "a", ".ci", ".about", "thead th", "header p", "footer", "dd", ".none", "figcaption"):
            assert contrast(page, selector) >= 4.5, selector


def contrast(page: Any, selector: str) -> float:
    """Contrast of an element's text with the page, as WCAG 2 defines it."""
    light, dark = sorted((luminance(page, selector, "color"), luminance(page, "body", "backgroundColor")), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(page: Any, selector: str, prop: str) -> float:
    """Relative luminance of a colour, as WCAG 2 defines it."""
    colour = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{prop}")
    red, green, blue = (int(part) / 255 for part in colour.strip("rgba()").split(",")[:3])
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
