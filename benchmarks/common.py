"""Side-by-side timing: the contestants take turns in one process, so that a machine's moods hit all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from ensemble_bench.training.hardware import resolve_precision

CPUINFO = Path("/proc/cpuinfo")


def side_by_side(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every contestant in every round by `clock`, after one uncounted warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def print_ratios(
    seconds: Mapping[str, list[float]], *, ours: Sequence[str], notes: Mapping[str, str] | None = None
) -> None:
    """A line a contestant: median seconds, and for each of `ours` the median over rounds of the time over its time."""
    print(f"{'':44} {'seconds':>8}" + "".join(f"  over {name.rpartition(' ')[2]:>8}" for name in ours))
    for name, times in seconds.items():
        ratios = "".join(f"  {_median_ratio(times, seconds[base]):>12.2f}x" for base in ours)
        print(f"{name:44} {statistics.median(times):8.3f}{ratios}  {(notes or {}).get(name, '')}")


def _median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(t / b for t, b in zip(times, base, strict=True))


def precisions() -> list[str]:
    """float32, and bf16 where the processor computes in it natively (elsewhere it is emulated, and slow)."""
    return ["float32", *(["bf16"] if resolve_precision("auto", torch.device("cpu")) == "bf16" else [])]


def print_setting(*packages: str) -> None:
    """What the figures depend on: processor, threads, versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    shown = ", ".join(f"{p} {version(p)}" for p in ("torch", *packages))
    print(f"{device}, {torch.get_num_threads()} threads, {shown}")


def _processor() -> str:
    """Name of the processor, with family and model, which names such as "AMD EPYC" leave out."""
    if not CPUINFO.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in CPUINFO.read_text().splitlines() if ":" in line)
    known = {key.strip(): value.strip() for key, value in fields.items()}
    name = known.get("model name", platform.machine())
    return f"{name} (family {known['cpu family']}, model {known['model']})" if "cpu family" in known else name
