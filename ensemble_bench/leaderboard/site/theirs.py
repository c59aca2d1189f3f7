"""RobustBench's entries (Croce et al. 2021) as lines of the same table."""

import itertools
from pathlib import Path

from ensemble_bench.errors import RecordError
from ensemble_bench.leaderboard.model_info import NORMS, ModelInfo, on_a_line, read_all
from ensemble_bench.leaderboard.site.entries import Entry, web_link
from ensemble_bench.records import NamedWarning, Threat
from ensemble_bench.records.table import Value

THEIRS = "RobustBench"
FOLDERS = {folder: norm for norm, folder in NORMS.items()}
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}


def read_entries(folder: Path) -> list[Entry]:
    """Read the entries below `folder`, whose files lie in folders Linf or L2; those for corruptions are left out.

    Raises RecordError when there is none, or a broken one.
    """
    folder = Path(folder).resolve()
    infos = [(folder / key, info) for key, info in read_all(folder).items()]
    entries = [_entry(path, info) for path, info in infos if info.best_known is not None]
    if not entries:
        raise RecordError(f"{folder}: no entry for Linf or L2; expected RobustBench's <data set>/<threat>/<model>.json")
    return entries


def _entry(path: Path, info: ModelInfo) -> Entry:
    dataset, norm = _where(path)
    if norm is None or info.radius is None or info.best_known is None:
        raise RecordError(f"{path}.json: cannot tell the threat; expected an eps and a folder {' or '.join(FOLDERS)}")
    # RobustBench counts eps = 0.031 among 8/255.
    near = round(255 * info.radius) / 255 if norm == "linf" else 0.0
    threat = Threat(norm=norm, eps=near or info.radius)
    other_eps = "" if threat.eps_text == info.eps else f"eps {info.eps}"
    note = NamedWarning(name="unreliable", message=info.footnote or "marked so by RobustBench")
    return Entry(
        name=path.name,
        source=THEIRS,
        about=", ".join(filter(None, (THEIRS, on_a_line(info.architecture), on_a_line(info.venue), other_eps))),
        title=on_a_line(info.name),
        data_name=dataset or info.dataset,
        threat=threat,
        suite="autoattack" if info.external is None else "external",
        n=IMAGES.get(dataset or info.dataset),
        robust=Value(accuracy=info.best_known),
        clean=Value(accuracy=info.clean),
        forward_passes=info.number_forward_passes,
        warnings=(note,) if info.unreliable else (),
        reasons=("quoted from RobustBench, not evaluated by this board",),
        link=web_link(info.link),
    )


def _where(path: Path) -> tuple[str | None, str | None]:
    """Data set and norm that an entry's folders name: one published entry for CIFAR-100 says cifar10 itself."""
    # From the innermost, as folders around RobustBench's may be called anything.
    for folder, above in itertools.pairwise(reversed(path.parent.parts)):
        if folder in FOLDERS:
            return above if above in IMAGES else None, FOLDERS[folder]
    return None, None
