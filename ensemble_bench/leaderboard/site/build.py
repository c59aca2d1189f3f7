"""The site on disk: rendered whole into a folder beside its place, then swapped in."""

import base64
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.files import scratch_folder
from ensemble_bench.leaderboard.site import charts
from ensemble_bench.leaderboard.site.boards import boards_of
from ensemble_bench.leaderboard.site.entries import (
    OURS,
    Entry,
    describe,
    ranked,
    to_csv,
    to_json,
    web_link,
    with_seeds,
)
from ensemble_bench.leaderboard.site.looks import recipe_styles
from ensemble_bench.leaderboard.site.markdown import to_html
from ensemble_bench.leaderboard.site.models import Model, read_models, titles_of
from ensemble_bench.leaderboard.site.scatter import scatter
from ensemble_bench.leaderboard.site.theirs import read_entries
from ensemble_bench.records import CARRIED
from ensemble_bench.records.conditions import precision_of, version_of
from ensemble_bench.records.text import day_text, quantity, seeds_text

PACKAGE = "ensemble_bench.leaderboard.site"
DISTRIBUTION = "ensemble-bench"
INDEX = "index.html"
PAPER = "https://arxiv.org/abs/1811.09300"
GENERATOR = '<meta name="generator" content="ensemble-bench">'  # tells a site that may be replaced from other folders


def build_site(root: Path, out: Path, *, robustbench: Path | None = None) -> Path:
    """Render the records below `root` into the folder `out`, replacing the site there, and return its index.html.

    `robustbench` holds model_info files of RobustBench, whose entries join the table. Equal inputs give equal bytes.
    Raises RecordError when a record is broken or weights are not those scored, InvalidValueError when `out` holds
    anything but a site; then `out` stays as it was.
    """
    out = Path(out).resolve()
    _check_replaceable(out)
    models = read_models(Path(root))
    entries = ranked([*with_seeds(models), *(read_entries(robustbench) if robustbench is not None else ())])
    with _swapped_in(out) as folder:
        for name, content in _files(models, entries).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                _copy(content, path)
            else:
                path.write_text(content, encoding="utf-8", newline="\n")
    return out / INDEX


def _files(models: Sequence[Model], entries: Sequence[Entry]) -> dict[str, str | Path]:
    """Every file of the site by its path in it: its text, or the file to copy."""
    pages = _environment()
    boards = boards_of(entries)
    files: dict[str, str | Path] = {
        INDEX: pages.get_template(INDEX).render(
            home="",
            entries=entries,
            boards=boards,
            charts={board.id: scatter(board) for board in boards},
            links=_links(),
        ),
        "leaderboard.csv": to_csv(entries),
        "leaderboard.json": to_json(entries),
    }
    for model in models:
        records = {record.id: f"records/{record.id[:16]}.json" for record in (*model.records, *model.views)}
        files[f"{model.folder}/{INDEX}"] = pages.get_template("model.html").render(
            home="../" * (model.folder.count("/") + 1),
            model=model,
            titles=titles_of(model),
            charts={record.id: charts.steps_chart(record) for record in model.records},
            eps_chart=charts.eps_chart(model.sweep),
            record_files=records,
            card=None if model.card is None else to_html(model.card, name=model.name),
        )
        files |= {f"{model.folder}/{path.name}": path for path in model.weights}
        files |= {
            f"{model.folder}/{records[record.id]}": record.path
            for record in (*model.records, *model.views)
            if record.path is not None
        }
    return files


def _copy(source: Path, path: Path) -> None:
    """Copy a file, as a second name of the same bytes where the file system has that: weights are many and large."""
    try:
        os.link(source.resolve(), path)  # not a second name of a symbolic link, which leads elsewhere from here
    except OSError:
        shutil.copyfile(source, path)


def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    static = resources.files(PACKAGE) / "static"
    # Inline and named by their hashes: browsers disagree on what 'self' means for a page read from a file.
    style, script = ((static / name).read_text(encoding="utf-8") for name in ("style.css", "table.js"))
    style += recipe_styles()
    policy = {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    policy |= {"style-src": _source(style), "script-src": _source(script)}
    pages.globals |= {
        "policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "style": Markup(style),
        "script": Markup(script),
        "generator": Markup(GENERATOR),
        "ours": OURS,
        "paper": PAPER,
        "carried": CARRIED,
    }
    pages.filters |= {
        "percent": lambda value: f"{100 * value:.1f}",
        "quantity": quantity,
        "seeds": seeds_text,
        "day": day_text,
        "describe": describe,
        "precision": precision_of,
        "version": version_of,
        "web_link": web_link,
    }
    return pages


def _links() -> list[tuple[str, str]]:
    """Where the package says that its repository and its documentation are, by name."""
    try:
        told = metadata.metadata(DISTRIBUTION).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return []
    links = (text.partition(", ") for text in told)
    return [(name, link) for name, _, link in links if web_link(link) and link != PAPER]


def _source(text: str) -> str:
    """A content security policy's name for an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _check_replaceable(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    index = out / INDEX
    if not index.is_file() or GENERATOR not in index.read_text(encoding="utf-8", errors="replace"):
        raise InvalidValueError(f"out is {str(out)!r}, which holds something else: choose a new or an empty folder")


@contextmanager
def _swapped_in(out: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `out` when the block ends well, and vanishes when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out) as new, scratch_folder(out) as aside:
        yield new
        old = aside / out.name
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
