"""A pool of Ray tasks: the same jobs on this machine or on a cluster whose nodes share the folder of the runs."""

import socket
import time
from collections.abc import Mapping
from typing import Any

from ensemble_bench.errors import EnsembleBenchError, InvalidValueError
from ensemble_bench.experiment import tasks
from ensemble_bench.experiment.board import Event
from ensemble_bench.experiment.local import environment
from ensemble_bench.experiment.plan import Job
from ensemble_bench.experiment.worker import PACE, reason_of

LOCAL = "local"
# A worker that is killed takes its task along, and Ray runs that again so often.
RETRIES = 3
# How long interrupted tasks may take to write what they have, in seconds.
GRACE = 60.0
# How long a cluster may take to answer, in seconds.
PATIENCE = 10.0


class RayPool:
    """Jobs as Ray tasks of one CPU (`threads`) and `gpus` GPUs each, on a cluster at `address`, or "local".

    `workers` bounds the jobs under way; None: as many as the cluster has room for. Raises InvalidValueError where ray
    is not installed or no cluster answers at the address.
    """

    def __init__(self, address: str, *, workers: int | None = None, threads: int = 1, gpus: float = 0.0) -> None:
        self._ray = ray = _imported()
        _check_reachable(address)
        options: dict[str, Any] = {"num_cpus": (workers or 1) * threads} if address == LOCAL else {"address": address}
        if address == LOCAL:
            options["include_dashboard"] = False
        thread_variables = {k: v for k, v in environment(threads).items() if k.endswith("_NUM_THREADS")}
        try:
            ray.init(
                **options,
                log_to_driver=False,
                logging_level="error",
                configure_logging=False,
                runtime_env={"env_vars": thread_variables},
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise InvalidValueError(f"ray is {address!r}: no cluster answers there: {said[:200]}") from None
        self._limit, self._need = workers, {"CPU": float(threads)} | ({"GPU": gpus} if gpus else {})
        self._notes = ray.remote(num_cpus=0)(_Notes).remote()
        self._task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)(_perform)
        self._load = ray.remote(num_cpus=threads, num_gpus=gpus)(tasks.load)
        self._jobs: dict[Any, str] = {}

    @property
    def workers(self) -> int:
        """How many jobs the cluster has room for now, within the bound."""
        there = self._ray.cluster_resources()
        room = int(min(there.get(name, 0.0) / need for name, need in self._need.items()))
        return max(room if self._limit is None else min(room, self._limit), 1)

    def prepare(self, jobs: int) -> None:
        """Start the workers that so many jobs can use: a task each that loads the package, which the worker keeps."""
        for _ in range(min(self.workers, jobs)):
            self._load.remote()

    def start(self, job: Job) -> None:
        """Submit `job` as a task."""
        self._jobs[self._task.remote(job.name, job.call, dict(job.arguments), self._notes)] = job.name

    def events(self, seconds: float) -> list[Event]:
        """Progress that tasks reported, and the tasks that ended."""
        if not self._jobs:
            time.sleep(seconds)
            return []
        ended, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        news = self._ray.get(self._notes.take.remote())
        found = [Event(job=name, kind="progress", **said) for name, said in news.items() if name in self._jobs.values()]
        for reference in ended:
            name = self._jobs.pop(reference)
            try:
                reason = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            found.append(Event(job=name, kind="failed" if reason else "done", reason=reason or ""))
        return found

    def close(self) -> None:
        """Interrupt the tasks, wait until each has kept what it has, and leave the cluster."""
        for reference in self._jobs:
            self._ray.cancel(reference, recursive=False)
        if self._jobs:
            self._ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=GRACE)
        self._ray.shutdown()


class _Notes:
    """An actor that holds the newest progress of every job until the driver takes it."""

    def __init__(self) -> None:
        self._newest: dict[str, Mapping[str, Any]] = {}

    def put(self, job: str, said: Mapping[str, Any]) -> None:
        self._newest[job] = said

    def take(self) -> dict[str, Mapping[str, Any]]:
        taken, self._newest = self._newest, {}
        return taken


def _perform(name: str, call: str, arguments: Mapping[str, Any], notes: Any) -> str | None:
    """Do a job in a Ray worker; returns why it failed, None if it did not."""
    said: dict[str, float] = {}

    def report(label: str, done: int, total: int, **fields: float | str) -> None:
        now = time.monotonic()
        if now - said.get(label, -PACE) >= PACE:
            said[label] = now
            notes.put.remote(name, {"label": label, "done": done, "total": total, "fields": fields})

    try:
        tasks.perform(call, arguments, report)
    except EnsembleBenchError as error:
        return reason_of(error)
    return None


def _check_reachable(address: str) -> None:
    """Raise InvalidValueError where nothing answers at host:port, which Ray itself would wait for for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidValueError(f"ray is {address!r}: no cluster answers there: {error}") from None


def _imported() -> Any:
    """The ray package; raises InvalidValueError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise InvalidValueError("--ray needs ray: pip install 'ensemble-bench[cluster]'") from None
    return ray
