"""How an upload becomes a submission: received, unpacked, checked, then kept and queued, or nothing of it stays."""

import os
import shutil
from collections.abc import AsyncIterable
from pathlib import Path

from ensemble_bench.errors import BundleError
from ensemble_bench.files import sync_directory
from ensemble_bench.server.settings import ServiceSettings
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


def check(path: Path, settings: ServiceSettings) -> Bundle:
    """Unpack the upload at `path` into a folder beside it, and check all of it that needs no model.

    This is where a stranger's bytes come in; the worker takes the folder as it is. Raises BundleError for a bundle that
    would be refused; then no folder stays.
    """
    try:
        return unpack(path, path.with_suffix(""), limits=settings.limits)
    except BundleError as error:
        raise BundleError(str(error).replace(f"{path.parent}/", "")) from None


def accept(bundle: Bundle, identifier: str, *, owner: str, settings: ServiceSettings, store: Store) -> None:
    """Keep a checked bundle and queue it: once this returns it cannot be lost; if it raises, nothing is kept.

    The entry in the queue comes last, and a restart removes uploads without one.
    """
    kept = settings.upload(identifier)
    try:
        for path in bundle.folder.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        sync_directory(bundle.folder)
        bundle.folder.replace(kept)
        sync_directory(kept.parent)
        store.add(identifier, owner=owner, name=bundle.name, weights_hash=bundle.weights_hash)
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)
        raise
