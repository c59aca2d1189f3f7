"""Side-by-side timing: the contestants take turns in one process, so that a machine's moods hit all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

import torch


def side_by_side(contestants: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round, after one uncounted warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def print_ratios(seconds: Mapping[str, list[float]], *, notes: Mapping[str, str] | None = None) -> None:
    """A line a contestant: median seconds, and the median over rounds of its time over the first one's."""
    ours, *_ = seconds
    for name, times in seconds.items():
        ratios = [t / o for t, o in zip(times, seconds[ours], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        note = (notes or {}).get(name, "")
        print(f"{name:46} {statistics.median(times):8.3f} s  {statistics.median(ratios):6.2f}x  ({spread})  {note}")


def print_setting(*packages: str) -> None:
    """What the figures depend on: processor, threads, versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    shown = ", ".join(f"{p} {version(p)}" for p in ("torch", *packages))
    print(f"{device}, {torch.get_num_threads()} threads, {shown}")
