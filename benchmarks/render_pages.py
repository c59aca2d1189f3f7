"""Every page, and every block of a page, that shows what was measured, rendered from what was saved.

    make pages

Nothing is measured. A block stands between <!-- NAME --> and <!-- /NAME -->. With them go the reports of the kept
experiments, and the notebook that shows their records. tests/test_pages.py renders all pages again.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import experiment_page
import paper_scale
import plan_cascade
import published
import speed
import toolkit_attacks
import tuning
import verdict_level

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "notebooks")]

import execute  # noqa: E402
import reference  # noqa: E402

from ensemble_bench.files import write_atomic  # noqa: E402

PAGES: Mapping[str, Callable[[], str]] = {
    "benchmarks/README.md": speed.page,
    "docs/scale.md": paper_scale.page,
    "docs/toolkit-attacks.md": toolkit_attacks.page,
    "docs/tuning.md": tuning.page,
}
BLOCKS: Mapping[tuple[str, str], Callable[[], str]] = {
    ("README.md", "results"): published.in_readme,
    ("README.md", "speed"): speed.summary,
    ("README.md", "costs"): speed.costs,
    ("docs/attacks.md", "attacks"): reference.attack_table,
    ("docs/claims.md", "levels"): verdict_level.table,
    ("docs/suites.md", "plan"): plan_cascade.kept,
    ("leaderboards/README.md", "results"): published.in_leaderboards,
    **{
        ("experiments/README.md", name): partial(experiment_page.state, experiment)
        for name, experiment in experiment_page.EXPERIMENTS.items()
    },
}


def main() -> None:
    for page, render in PAGES.items():
        write(ROOT / page, render())
    for (page, name), render in BLOCKS.items():
        before, _, after = parts(ROOT / page, name)
        write(ROOT / page, before + render() + after)
    experiment_page.write_reports()
    execute.store(ROOT / "notebooks/02_kept_records.ipynb")


def parts(page: Path, name: str) -> tuple[str, str, str]:
    """The text of a page before, in and after its block `name`, the marks with what surrounds it."""
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"{page}: not one block {name!r}")
    before, rest = text.split(start)
    inside, after = rest.split(end)
    return before + start, inside, end + after


def write(page: Path, text: str) -> None:
    """Write and name the page if its text is another."""
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        write_atomic(page, text)
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
