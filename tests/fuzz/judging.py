"""What becomes of one input: read, refused by an error of the package's own, or a fault."""

import contextlib
import hashlib
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mutating import Parts, join
from target import Target

from ensemble_bench.errors import EnsembleBenchError

SECONDS = 10
"""Of processor time that an input may take."""
MEMORY = 2 * 2**30
"""Bytes that it may take."""
LONGEST = 2000
"""Characters of an error: it is one line for a person."""


class TooSlowError(BaseException):
    """An input took longer than it may; no `except Exception` of a reader catches it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What an input raised that no reader may: `place` is the last line of the package in it, `text` the traceback."""

    target: str
    kind: str
    place: str
    text: str

    @property
    def key(self) -> str:
        """Equal for inputs that fail alike."""
        return hashlib.sha256(f"{self.target} {self.kind} {self.place}".encode()).hexdigest()[:8]

    def __str__(self) -> str:
        return f"{self.target}: {self.kind} at {self.place} ({self.key})"


def judge(target: Target, parts: Parts, scratch: Path | None = None) -> Fault | bool:
    """Whether the parts were read, True, or refused, False; or their fault."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        target.write(parts, folder)
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder)
    except target.errors as error:
        text = str(error)
        if wrong := _wrong_words(text):
            return _fault(target, error, wrong)
        return False
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        kind = type(error).__name__
        return _fault(target, error, f"{kind} (not documented)" if isinstance(error, EnsembleBenchError) else kind)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _wrong_words(text: str) -> str:
    """What is wrong with the line of an error, nothing if it can be printed on one."""
    if len(text) > LONGEST:
        return "an error too long"
    if len(text.splitlines()) != 1:
        return "an error of several lines"
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return "an error that cannot be printed"
    return ""


def _fault(target: Target, error: BaseException, kind: str) -> Fault:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "ensemble_bench" in Path(frame.filename).parts] or list(frames)
    where = Path(own[-1].filename)
    parts = where.parts[where.parts.index("ensemble_bench") :] if "ensemble_bench" in where.parts else where.parts[-1:]
    text = "".join(traceback.format_exception(error))
    return Fault(target=target.name, kind=kind, place=f"{'/'.join(parts)}:{own[-1].lineno}", text=text)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Bounds of time and memory in the block; memory where the system tells how much the process has."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TooSlowError(f"more than {SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if status.exists():
        now = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    # The clock of the processor: other processes take none of this time. A fuzzer has the other clock.
    handler = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def keep(fault: Fault, parts: Parts, found: Path) -> bool:
    """Keep a fault and its smallest input in a folder; whether it is a new one."""
    folder = found / f"{fault.target}-{fault.key}"
    new, data = not folder.exists(), join(parts)
    if new or len(data) < (folder / "input").stat().st_size:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "input").write_bytes(data)
        (folder / "fault.txt").write_text(f"{fault}\n\n{fault.text}", errors="backslashreplace")
    return new
