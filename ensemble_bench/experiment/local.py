"""A pool of worker processes on this machine."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ensemble_bench.experiment.board import Event
from ensemble_bench.experiment.plan import Job

# How long an interrupted worker may take to finish its step and write what it has, in seconds.
GRACE = 60.0


@dataclass(kw_only=True, eq=False)
class _Worker:
    """A worker process, its place among `gpus`, the job it does, and what it has written of an unfinished line."""

    process: subprocess.Popen[bytes]
    gpu: str | None
    job: str | None = None
    rest: bytes = field(default=b"", repr=False)


class LocalPool:
    """`workers` processes of `threads` threads each; what they say on standard error goes into the file `log`.

    Each sees one of the GPUs in `gpus` alone (see hardware.gpus_of), the one that fewest others see; without any, all.
    A worker that dies is replaced when there is work for it. `held` are file descriptors that workers inherit, so that
    a lock on one of them outlives this process for as long as its workers do.
    """

    def __init__(
        self, workers: int, *, threads: int = 1, gpus: Sequence[str] = (), log: Path, held: Sequence[int] = ()
    ) -> None:
        self.workers = workers
        self._gpus = tuple(gpus)
        self._held = tuple(held)
        self._log = open(log, "ab")  # noqa: SIM115 - closed by close
        self._environment = environment(threads)
        self._pool: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """The worker processes that there are now."""
        return [worker.process for worker in self._pool]

    def prepare(self, jobs: int) -> None:
        """Start the workers that so many jobs can use; they load the package while this process does other things."""
        for _ in range(min(self.workers, jobs) - len(self._pool)):
            self._new()

    def start(self, job: Job) -> None:
        """Hand `job` to an idle worker, started now if there is none."""
        worker = next((w for w in self._pool if w.job is None), None) or self._new()
        worker.job = job.name
        assert worker.process.stdin is not None
        line = json.dumps({"call": job.call, "arguments": dict(job.arguments)}).encode() + b"\n"
        try:
            worker.process.stdin.write(line)
            worker.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died since; `events` will say so

    def events(self, seconds: float) -> list[Event]:
        """What the workers said, and which of them died."""
        found: list[Event] = []
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            said = os.read(key.fd, 1 << 16)
            if not said:
                found += self._lost(worker)
                continue
            *lines, worker.rest = (worker.rest + said).split(b"\n")
            for line in lines:
                news = json.loads(line)
                if worker.job is not None:
                    found.append(Event(job=worker.job, **news))
                if news["kind"] != "progress":
                    worker.job = None
        return found

    def close(self) -> None:
        """Interrupt the workers, wait until each has kept what it has, and kill those that do not end."""
        for worker in self._pool:
            assert worker.process.stdin is not None
            if worker.job is None:
                # The end of its input ends it wherever it is, also before it can be interrupted.
                worker.process.stdin.close()
            else:
                worker.process.send_signal(signal.SIGINT)
        end = time.monotonic() + GRACE
        for worker in self._pool:
            try:
                worker.process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                assert pipe is not None
                pipe.close()
        self._pool.clear()
        self._selector.close()
        self._log.close()

    def _new(self) -> _Worker:
        taken = [worker.gpu for worker in self._pool]
        gpu = min(self._gpus, key=taken.count, default=None)
        process = subprocess.Popen(
            [sys.executable, "-m", "ensemble_bench.experiment.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment if gpu is None else {**self._environment, "CUDA_VISIBLE_DEVICES": gpu},
            pass_fds=self._held,
            # Ctrl-C reaches every process of a terminal's group; these are told by `stop` alone.
            start_new_session=True,
            bufsize=0,
        )
        worker = _Worker(process=process, gpu=gpu)
        self._pool.append(worker)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        return worker

    def _lost(self, worker: _Worker) -> list[Event]:
        """Bury a worker whose output has ended; its job, if it had one, is lost."""
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        self._pool.remove(worker)
        status = worker.process.wait()
        told = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return [] if worker.job is None else [Event(job=worker.job, kind="lost", reason=f"its worker died ({told})")]


def environment(threads: int) -> Mapping[str, str]:
    """The environment of a worker: so many threads, however many cores there are.

    A network's last bits depend on the number of threads, which therefore must not depend on the machine.
    """
    count = str(threads)
    return {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
