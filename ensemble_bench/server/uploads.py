"""How an upload becomes a submission: received, unpacked, checked, then kept and queued, or nothing of it stays."""

import os
import shutil
from collections.abc import AsyncIterable
from pathlib import Path

from ensemble_bench.errors import BundleError
from ensemble_bench.files import sha256_bytes, sha256_file, sync_directory
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store
from ensemble_bench.submissions.faults import is_of_machine
from ensemble_bench.submissions.format.archive import FILES
from ensemble_bench.submissions.format.bundle import Bundle, unpack
from ensemble_bench.submissions.price import check_price, rules_to_price


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
    """Unpack the upload at `path` into a folder beside it, and check all of it that needs no weights: also its price.

    This is where a stranger's bytes come in; the worker takes the folder as it is. Raises BundleError for a bundle that
    would be refused; then no folder stays. Errors of the machine are raised as they are.
    """
    folder = path.with_suffix("")
    try:
        bundle = unpack(path, folder, limits=settings.limits)
        rules = rules_to_price(bundle, settings.root, settings.data_dir)
        check_price(bundle, settings.max_flops, suite=settings.suite, n=settings.n, rules=rules)
    except BundleError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if is_of_machine(error):
            raise
        raise BundleError(str(error).replace(f"{path.parent}/", "")) from None
    return bundle


def accept(bundle: Bundle, identifier: str, *, owner: str, settings: ServiceSettings, store: Store) -> str:
    """Keep a checked bundle and queue it: once this returns its id it cannot be lost; if it raises, nothing is kept.

    An equal one of the same owner that waits already stands for it. The entry in the queue comes last, and a restart
    removes uploads without one. Raises QuotaError for an owner who has submitted enough.
    """
    kept = settings.upload(identifier)
    found = ""
    try:
        for path in bundle.folder.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        digest = _digest(bundle.folder)
        sync_directory(bundle.folder)
        bundle.folder.replace(kept)
        sync_directory(kept.parent)
        found = store.add(
            identifier,
            owner=owner,
            name=bundle.name,
            weights_hash=bundle.weights_hash,
            digest=digest,
            quota=settings.quota,
        )
        return found
    finally:
        if found != identifier:
            shutil.rmtree(kept, ignore_errors=True)


def _digest(folder: Path) -> str:
    """Equal for bundles of equal files."""
    return sha256_bytes(" ".join(sha256_file(folder / name) for name in FILES).encode())
