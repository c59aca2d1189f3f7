"""The process that verifies submissions, one by one, and publishes those that hold.

It may be killed at any moment: verifying goes on from the records that are there, publishing again changes nothing,
and the verdict is written last.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from pathlib import Path

from ensemble_bench.errors import BundleError, DataError, EnsembleBenchError
from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.registry.terms import REFUSED, VERIFIED
from ensemble_bench.server.lock import hold
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store, Submission
from ensemble_bench.submissions.format.bundle import read

LOCK = "worker.lock"
FREED = 60.0
"""Seconds within which the worker of a service that was killed has ended."""
POLL = 0.5
"""Seconds between two looks at an empty queue."""

Verdict = tuple[str, tuple[str, ...]]
"""A status, and the reasons for it."""
Judge = Callable[[Submission, ServiceSettings, Store], Verdict]


def work(settings: ServiceSettings) -> None:
    """Verify and publish until the service ends."""
    from ensemble_bench.training.hardware import resolve_device

    try:
        resolve_device(settings.device)
    except EnsembleBenchError as error:
        # The operator's mistake: no submission shall be refused for it.
        raise SystemExit(f"no submission is verified: {error}") from None
    run(settings, judge)


def run(settings: ServiceSettings, judge: Judge) -> None:
    """Let `judge` decide on one submission after another until the service ends."""
    _end_with_parent()
    store = Store(settings.store)
    with hold(settings.data / LOCK, wait=FREED):
        # A submission that is under verification now is the one at which the worker before this one ended.
        store.requeue(crashes=1)
        reason = f"the verifier crashed at it, or took more than {settings.hours:g} hours, {settings.attempts} times"
        for hopeless in store.crashed(settings.attempts):
            _settle(hopeless, (REFUSED, (reason,)), settings, store)
        while True:
            if submission := store.take():
                with _at_most(settings.hours):
                    verdict = judge(submission, settings, store)
                _settle(submission, verdict, settings, store)
            else:
                time.sleep(POLL)


def judge(submission: Submission, settings: ServiceSettings, store: Store) -> Verdict:
    """Verify a submission, and publish it if it holds."""
    from ensemble_bench.submissions.publishing import check_free, publish
    from ensemble_bench.submissions.verification import verify

    try:
        # Before hours of attacks, not after.
        check_free(submission.name, submission.weights_hash, settings.root)
        _check_owner(submission, settings.root, store)
        bundle = read(settings.upload(submission.id), settings.limits)
        result = verify(
            bundle,
            suite=settings.suite,
            n=settings.n,
            data_dir=settings.data_dir,
            device=settings.device,
            limits=settings.limits,
            work=settings.work / submission.id,
            runs=settings.runs,
            root=settings.root,
        )
        if result.status == VERIFIED:
            # Whose it is stands first: a publication that was cut short is then still the owner's.
            new = store.give_name(submission.name, submission.owner)
            try:
                publish(result, bundle.folder, settings.root)
            except BaseException:
                if new:
                    store.release_name(submission.name)
                raise
            rebuild(settings)
    except BundleError as error:
        return REFUSED, (str(error).replace(f"{settings.root}/", ""),)
    except DataError as error:
        print(f"submission {submission.id}: {error}", file=sys.stderr, flush=True)
        return REFUSED, ("cannot be checked here: the service lacks its data set, or its board has broken rules",)
    return result.status, result.reasons


def rebuild(settings: ServiceSettings) -> None:
    """Render the site again; if that fails, the old one stays and the operator reads why."""
    try:
        build_site(settings.root, settings.site)
    except (EnsembleBenchError, OSError) as error:
        print(f"the site is not up to date: {error}", file=sys.stderr, flush=True)


def _check_owner(submission: Submission, root: Path, store: Store) -> None:
    """Raise BundleError if the name is another submitter's: a new publication would change its authors and its card."""
    owner = store.owner_of(submission.name)
    if owner != submission.owner and (owner is not None or any(root.glob(f"*/*/weights/{submission.name}"))):
        raise BundleError(f"name {submission.name!r} belongs to another submitter: choose another --name")


def _settle(submission: Submission, verdict: Verdict, settings: ServiceSettings, store: Store) -> None:
    """Write the verdict, then remove the bundle and the files of its verification."""
    from ensemble_bench.submissions.publishing import withdraw

    if verdict[0] != VERIFIED and store.owner_of(submission.name) == submission.owner:
        withdraw(submission.name, submission.weights_hash, settings.root)
    store.finish(submission.id, *verdict)
    print(f"submission {submission.id} ({submission.name}): {verdict[0]}", file=sys.stderr, flush=True)
    for folder in (settings.upload(submission.id), settings.work / submission.id):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _at_most(hours: float) -> Iterator[None]:
    """End this process if the block takes longer: nothing less stops every loop."""
    timer = threading.Timer(hours * 3600, os._exit, (1,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_with_parent() -> None:
    """End when the service does, also when it was killed; its Ctrl-C is not for us."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
