"""The process that verifies submissions, one by one, and publishes those that hold.

It may be killed at any moment: verifying goes on from the records that are there, publishing again changes nothing,
and the verdict is written last.
"""

import contextlib
import importlib
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
from typing import TypeVar

from ensemble_bench.errors import BundleError, EnsembleBenchError, RecordError, shortened
from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.locks import held
from ensemble_bench.registry.terms import REFUSED, VERIFIED
from ensemble_bench.server.confinement import bounded, flush_denormals, memory_of
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store, Submission
from ensemble_bench.submissions.faults import is_of_machine, no_memory
from ensemble_bench.submissions.format.bundle import read

SERVICE = "service"
LOCK = "worker.lock"
FREED = 60.0
"""Seconds within which the worker of a service that was killed has ended."""
POLL = 0.5
"""Seconds between two looks at an empty queue."""
TICK = 10.0
"""Seconds between two looks at the time that a verification takes."""
LONGEST_PAUSE = 60.0
NEEDED = ("pandas", "pyarrow.parquet", "scipy.stats", "sklearn.datasets", "torch")
OWN_FAULT = "it waits: the service has a fault of its own, which its operator was told; it will be tried again"

T = TypeVar("T")
_deciding = threading.Lock()
_clocks: list[threading.Event] = []
Verdict = tuple[str, tuple[str, ...]]
"""A status, and the reasons for it."""
Judge = Callable[[Submission, ServiceSettings, Store], Verdict]


def work(settings: ServiceSettings) -> None:
    """Verify and publish until the service ends."""
    from ensemble_bench.training.hardware import resolve_device

    # Before memory is bounded, so that the bound is all a submission's.
    for needed in (*NEEDED, "ensemble_bench.submissions.publishing"):
        importlib.import_module(needed)
    try:
        # A GPU's driver maps more than there is: no bound on addresses is of use there.
        memory = memory_of(settings.memory) if resolve_device(settings.device).type == "cpu" else None
        flush_denormals()

        def judged(submission: Submission, settings: ServiceSettings, store: Store) -> Verdict:
            with bounded(memory):
                return judge(submission, settings, store)

        run(settings, judged)
    except EnsembleBenchError as error:
        # The operator's mistake: no submission shall be refused for it.
        raise SystemExit(f"no submission is verified: {error}") from None


def run(settings: ServiceSettings, judge: Judge) -> None:
    """Let `judge` decide on one submission after another until the service ends."""
    _end_with_parent()
    store = Store(settings.store)
    with held(settings.data, SERVICE, name=LOCK, wait=FREED):
        # A submission that is under verification now is the one at which the worker before this one ended.
        store.requeue(crashes=1)
        while True:
            if not work_once(settings, store, judge):
                time.sleep(POLL)


def work_once(settings: ServiceSettings, store: Store, judge: Judge) -> bool:
    """Let `judge` decide on the next submission; False where none waits.

    An error that is the machine's or its operator's decides nothing: the submission waits, and is tried again.
    """
    reason = f"the verifier crashed at it, or ran out of memory, {settings.attempts} times"
    for hopeless in _insist(lambda: store.crashed(settings.attempts)):
        _settle(hopeless, (REFUSED, (reason,)), settings, store)
    submission = _insist(store.take)
    if submission is None:
        return False
    try:
        with _at_most(submission, settings, store):
            verdict = judge(submission, settings, store)
    except Exception as error:
        if not is_of_machine(error):
            raise
        told, crashes = OWN_FAULT, int(no_memory(error))
        wait = _insist(lambda: store.postpone(submission.id, told, crashes=crashes))
        _tell(f"submission {submission.id} waits {wait:g} s for a fault that is not its own: {_line(error)}")
    else:
        _settle(submission, verdict, settings, store)
    return True


def judge(submission: Submission, settings: ServiceSettings, store: Store) -> Verdict:
    """Verify a submission, and publish it if it holds.

    Whatever is raised, nothing of it is published; is_of_machine tells what is no fault of its own.
    """
    from ensemble_bench.submissions.publishing import check_free, publish
    from ensemble_bench.submissions.verification import verify

    try:
        bundle = read(settings.upload(submission.id), settings.limits)
        # Before hours of attacks, not after.
        check_free(bundle.model, bundle.weights_hash, settings.root)
        _check_owner(submission, settings.root, store)
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
            memory=memory_of(settings.memory) // 2,
        )
        if result.status == VERIFIED:
            _stop_clock()
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
        if is_of_machine(error):
            raise
        return REFUSED, (str(error).replace(f"{settings.root}/", ""),)
    return result.status, result.reasons


def rebuild(settings: ServiceSettings) -> None:
    """Render the site again; if that fails, the old one stays and the operator reads why."""
    try:
        build_site(settings.root, settings.site)
    except Exception as error:  # want of memory too: what is published stays, and so does its verdict
        _tell(f"the site is not up to date: {error}")


def _check_owner(submission: Submission, root: Path, store: Store) -> None:
    """Raise BundleError if the name is another submitter's: a new publication would change its authors and its card."""
    owner = store.owner_of(submission.name)
    if owner != submission.owner and (owner is not None or any(root.glob(f"*/*/weights/{submission.name}"))):
        raise BundleError(f"name {submission.name!r} belongs to another submitter: choose another --name")


def _settle(submission: Submission, verdict: Verdict, settings: ServiceSettings, store: Store) -> None:
    """Write the verdict, then remove the bundle, the files of its verification, and what a cut publication left."""
    if verdict[0] != VERIFIED:
        _withdraw(submission, settings.root, store)
    _insist(lambda: store.finish(submission.id, *verdict))
    _tell(f"submission {submission.id} ({submission.name}): {verdict[0]}")
    for folder in (settings.upload(submission.id), settings.work / submission.id):
        shutil.rmtree(folder, ignore_errors=True)


def _withdraw(submission: Submission, root: Path, store: Store) -> None:
    try:
        if store.owner_of(submission.name) == submission.owner:
            from ensemble_bench.submissions.publishing import withdraw

            withdraw(submission.name, submission.weights_hash, root)
    except (EnsembleBenchError, OSError) as error:  # what it left has no verdict, and is not shown
        _tell(f"submission {submission.id}: what is left of it stays: {_line(error)}")


def _insist(action: Callable[[], T]) -> T:
    """Do what the queue's file has to remember, for as long as it cannot be written, as on a full disk."""
    wait = 1.0
    while True:
        try:
            return action()
        except (RecordError, OSError) as error:
            _tell(f"trying again in {wait:g} s: {_line(error)}")
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_PAUSE)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {shortened(str(error))}"


@contextmanager
def _at_most(submission: Submission, settings: ServiceSettings, store: Store) -> Iterator[None]:
    """Refuse the submission and end this process if its verification takes too long, all attempts together.

    Nothing less stops every loop.
    """
    over = threading.Event()
    _clocks.append(over)
    reason = f"verifying it took more than {settings.hours:g} hours"

    def watch() -> None:
        while not over.wait(min(TICK, settings.hours * 3600)):
            with _deciding, contextlib.suppress(RecordError):
                if not over.is_set() and store.spend(submission.id, TICK) >= settings.hours * 3600:
                    _settle(submission, (REFUSED, (reason,)), settings, store)
                    os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        _stop_clock()


def _stop_clock() -> None:
    """Let no time run out any more: the verdict is known, and nothing may be refused while it is published."""
    with _deciding:
        while _clocks:
            _clocks.pop().set()


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
