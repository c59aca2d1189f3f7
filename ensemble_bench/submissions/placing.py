"""Several files put in place as one: first written whole beside their places, then moved there, or none of them is."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ensemble_bench.files import scratch_folder, sync_directory

STAGING = "placing"


@contextmanager
def placed(files: Mapping[Path, bytes | Path], below: Path) -> Iterator[None]:
    """Have `files` (the content by path, or a file to copy) in their places, which are `below`, inside the block.

    They are written to a hidden folder first, so that a full disk is met before anything is seen, then moved in their
    order: what a reader looks for goes last. They stay when the block ends, and are taken back, with what stood there
    before put back, if anything raises. A file that is there already is not touched. A process that is killed in
    between leaves some of them: placing them again completes it.
    """
    new = {path: content for path, content in files.items() if not _holds(path, content)}
    if not new:
        yield
        return
    with contextlib.ExitStack() as undo:
        undo.callback(_remove_empty, _make_folder(below))
        staging = undo.enter_context(scratch_folder(below / STAGING))
        for i, content in enumerate(new.values()):
            _write(staging / str(i), content)
        # Undone while the folder is still there that keeps what stood in their places.
        with contextlib.ExitStack() as moves:
            for i, path in enumerate(new):
                moves.callback(_remove_empty, _make_folder(path.parent))
                old = staging / f"{i}.before"
                if path.exists():
                    _keep(path, old)
                moves.callback(_put_back, path, old)
                (staging / str(i)).replace(path)
                sync_directory(path.parent)
            yield
            moves.pop_all()


def _holds(path: Path, content: bytes | Path) -> bool:
    return path.is_file() and path.read_bytes() == (content if isinstance(content, bytes) else content.read_bytes())


def _write(path: Path, content: bytes | Path) -> None:
    with open(path, "xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            with open(content, "rb") as source:
                shutil.copyfileobj(source, file, 2**20)
        file.flush()
        os.fsync(file.fileno())


def _keep(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # a file system without links
        shutil.copyfile(path, copy)


def _put_back(path: Path, old: Path) -> None:
    if old.exists():
        old.replace(path)
    else:
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents; returns those that were not there, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()
