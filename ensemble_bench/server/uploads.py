"""How an upload becomes a submission: received, checked, then kept and queued, or nothing of it stays."""

import os
import shutil
from collections.abc import AsyncIterable
from pathlib import Path

from ensemble_bench.errors import BundleError
from ensemble_bench.files import sync_directory
from ensemble_bench.server.settings import Settings
from ensemble_bench.server.store import Store
from ensemble_bench.submissions.format.bundle import Bundle, unpack


class TooLargeError(Exception):
    """An upload holds more bytes than are taken."""


async def receive(chunks: AsyncIterable[bytes], path: Path, max_bytes: int) -> None:
    """Write what arrives into the new file `path`; raises TooLargeError before more than `max_bytes` are written."""
    size = 0
    with open(path, "xb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise TooLargeError
            file.write(chunk)


def check(path: Path, settings: Settings) -> Bundle:
    """Check all of the bundle at `path` that needs no model; only what is returned stays of it.

    Raises BundleError for one that would be refused.
    """
    folder = path.with_suffix("")
    try:
        return unpack(path, folder, limits=settings.limits)
    except BundleError as error:
        raise BundleError(str(error).replace(f"{path.parent}/", "")) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def accept(path: Path, identifier: str, bundle: Bundle, *, owner: str, settings: Settings, store: Store) -> None:
    """Keep the upload at `path` and queue it: when this returns it is not lost any more, if it raises nothing is kept.

    The entry in the queue comes last, and a restart removes uploads without one.
    """
    kept = settings.upload(identifier)
    try:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        path.replace(kept)
        sync_directory(kept.parent)
        store.add(identifier, owner=owner, name=bundle.name, weights_hash=bundle.config["weights_hash"])
    except BaseException:
        kept.unlink(missing_ok=True)
        raise
