"""The documentation as a Sphinx site: `make docs` writes it to docs/_build/html, and a warning is an error."""

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

import reference  # noqa: E402

import ensemble_bench  # noqa: E402

project = "ensemble-bench"
author = "The ensemble-bench authors"
project_copyright = f"{author}; MIT licence"
version = release = ensemble_bench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "plugin-example"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"ensemble-bench {version}"
# Sources are in the repository; without copies of them nothing but the pages has to be served.
html_copy_source = False
html_show_sphinx = False
# An excerpt would be fetched from the page, which browsers refuse where the site is read from a disk.
html_show_search_summary = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
highlight_language = "default"

# In the repository a link to a file beside docs/ leads there; Sphinx would look for a page.
_BESIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./|plugin-example/)[^)\s]*\)")


def _without_links_beside(app: Any, name: str, source: list[str]) -> None:
    """What lies outside of the site is named there, and not linked: its place depends on where the site is served."""
    source[0] = _BESIDE.sub(r"\1", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx: writes the reference of the command line, and takes links out of the site."""
    page = DOCS / "_build" / "command-line.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(reference.command_line(), encoding="utf-8")
    app.connect("source-read", _without_links_beside)
