"""A worker: a process that does one job after the other, and ends with the process that started it.

Jobs come as lines of JSON on its standard input, and news of them go out as lines of JSON on its standard output. When
the input ends, whatever ended it, the worker ends too, in the middle of a job if need be: everything that jobs do
survives that.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any, TextIO

from ensemble_bench.errors import EnsembleBenchError
from ensemble_bench.experiment import tasks

# Least time between two reports of one label, in seconds.
PACE = 0.5
INTERRUPTED = 130


class Reports:
    """A `Progress` that writes a line for every piece of news, but not more than two a second of one label."""

    def __init__(self, channel: TextIO) -> None:
        self._channel = channel
        self._said: dict[str, float] = {}

    def __call__(self, label: str, done: int, total: int, **fields: float | str) -> None:
        """Report progress, unless the last report of this label is too recent."""
        now = time.monotonic()
        if done >= total or now - self._said.get(label, -PACE) >= PACE:
            self._said[label] = now
            self.write(kind="progress", label=label, done=done, total=total, fields=fields)

    def write(self, **news: Any) -> None:
        """Write one line."""
        self._channel.write(json.dumps(news) + "\n")
        self._channel.flush()


def reason_of(error: BaseException) -> str:
    """One line that says why a job failed: an error of the user's as it stands, a bug by its kind."""
    said = " ".join(str(error).split())
    return said if isinstance(error, EnsembleBenchError) else f"{type(error).__name__}: {said}"


def main() -> int:
    """Do jobs until the input ends; returns the exit status."""
    # What libraries print must not come between the lines.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that puts jobs in the background ignores it
    reports, jobs = Reports(channel), queue.Queue[dict[str, Any]]()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(json.loads(line))
        os._exit(INTERRUPTED)

    threading.Thread(target=listen, daemon=True).start()
    try:
        tasks.load()
        while True:
            job = jobs.get()
            try:
                tasks.perform(job["call"], job["arguments"], reports)
            except Exception as error:
                if not isinstance(error, EnsembleBenchError):
                    traceback.print_exc()
                reports.write(kind="failed", reason=reason_of(error))
            else:
                reports.write(kind="done")
    except (KeyboardInterrupt, BrokenPipeError):
        # Without the clean-up of an interpreter that waits for its threads.
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
