"""Progress as plain lines, for log files: one at the start and the end of every stage, and every 30 s in between."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

EVERY = 30.0
"""Seconds between two lines of a stage."""
STATUS = Path("/proc/self/status")


@dataclass(kw_only=True)
class _Stage:
    """A label under way: what its last report said, and the clock's times of its start and its last line."""

    done: int
    total: int
    shown: str
    first: int
    started: float
    written: float

    def line(self, now: float) -> str:
        """How far it is: "120 of 400 (30 %), 3.2/s, 1:28 left, loss 1.234"."""
        parts = [f"{self.done} of {self.total} ({self.done / max(self.total, 1):.0%})".replace("%", " %")]
        rate = (self.done - self.first) / (now - self.started) if now > self.started else 0.0
        if rate > 0:
            parts += [_rate(rate), f"{duration((self.total - self.done) / rate)} left"]
        else:
            parts.append(f"for {duration(now - self.started)}")
        return ", ".join(part for part in (*parts, self.shown) if part)

    def end(self, now: float) -> str:
        """What it took: "done, 400 in 2:05, 3.2/s, loss 1.234"; of what was done when first reported, what was said."""
        took, units = now - self.started, self.done - self.first
        if units == 0:
            return self.shown or "done"
        rate = _rate(units / took) if took > 0 else ""
        return ", ".join(filter(None, (f"done, {self.done} in {duration(took)}", rate, self.shown)))


class Lines:
    """A `Progress` that writes plain lines; `clock` gives seconds, `write` takes a line, `memory` says what is in use.

    As a context it also writes when nothing reports for long, and says what was left unfinished.
    """

    def __init__(
        self,
        *,
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], str] | None = None,
        every: float = EVERY,
    ) -> None:
        self._write = write or _to_stderr
        self._clock = clock
        self._memory = memory or memory_in_use
        self._every = every
        self._stages: dict[str, _Stage] = {}
        # A thread of its own writes while a long step reports nothing.
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._keep_watch, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._watch.join()
        now = self._clock()
        for label, stage in self._stages.items():
            self._say(label, f"stopped at {stage.done} of {stage.total} after {duration(now - stage.started)}")
        self._stages.clear()

    def __call__(self, label: str, done: int, total: int, **fields: float | str) -> None:
        """Take note that `done` of `total` are finished, and write a line where one is due."""
        with self._lock:
            now = self._clock()
            shown = described(fields)
            stage = self._stages.get(label)
            if stage is None:
                stage = _Stage(done=done, total=total, shown=shown, first=done, started=now, written=now)
                self._stages[label] = stage
                if done < total:
                    self._say(label, f"goes on at {done} of {total}" if done else f"started, {total} to do")
            stage.done, stage.total, stage.shown = done, total, shown
            if done >= total:
                del self._stages[label]
                self._say(label, stage.end(now))
            else:
                self._write_due(now)

    def tick(self) -> None:
        """Write the line of every stage whose last one is 30 s old."""
        with self._lock:
            self._write_due(self._clock())

    def _write_due(self, now: float) -> None:
        for label, stage in self._stages.items():
            if now - stage.written >= self._every:
                stage.written = now
                self._say(label, stage.line(now))

    def _say(self, label: str, text: str) -> None:
        memory = self._memory()
        self._write(f"{label}: {text}" + (f", memory {memory}" if memory else ""))

    def _keep_watch(self) -> None:
        while not self._stopped.wait(1.0):
            self.tick()


def described(fields: dict[str, float | str]) -> str:
    """Fields of a report as people read them: "loss 1.234, clean 0.500"; a status speaks for itself."""
    return ", ".join(
        str(value) if name == "status" else f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )


def duration(seconds: float) -> str:
    """Time in hours, minutes and seconds: "0:07", "1:28", "26:03:10"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory_in_use() -> str:
    """Memory of this process now, such as "512 MiB"; empty where the system does not say as Linux does."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration, ValueError):
        return ""
    return f"{kib / 1024:.0f} MiB"


def _rate(value: float) -> str:
    """Units a second with three digits or more: "0.0123/s", "3.21/s", "1234/s"."""
    return f"{value:.0f}/s" if value >= 100 else f"{value:.3g}/s"


def _to_stderr(line: str) -> None:
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", file=sys.stderr, flush=True)
