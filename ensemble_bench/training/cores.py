"""How many cores of this machine are idle now: more threads than that wait for each other, and training crawls."""

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

STAT = Path("/proc/stat")
# Long enough for the kernel's counters, which move every hundredth of a second.
SECONDS = 0.3
# A core that others use for less than this share of its time counts as idle.
SPARE = 0.25


def idle_cores(
    *,
    allowed: Collection[int] | None = None,
    read: Callable[[], str] = lambda: STAT.read_text(encoding="utf-8"),
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Cores that this process may use and nobody uses now, at least 1.

    Measured for 0.3 s with Linux's /proc/stat; without it, all cores. `allowed` are the numbers of the cores that may
    be used, by default those of this process.
    """
    if allowed is None:
        allowed = usable()
    try:
        before = _times(read())
        wait(SECONDS)
        after = _times(read())
    except (OSError, ValueError):
        return max(1, len(allowed))
    return max(1, sum(_is_idle(before[core], after[core]) for core in allowed if core in before and core in after))


def usable() -> Collection[int]:
    """Cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _times(stat: str) -> dict[int, tuple[int, int]]:
    """Ticks idle and ticks in all of every core, from lines "cpu0 user nice system idle iowait irq softirq steal …"."""
    cores = {}
    for line in stat.splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            # Time of guests, behind these eight, is counted as the user's already.
            values = [int(tick) for tick in ticks[:8]]
            cores[int(name[3:])] = (values[3] + values[4], sum(values))
    if not cores:
        raise ValueError("no core")
    return cores


def _is_idle(before: tuple[int, int], after: tuple[int, int]) -> bool:
    idle, whole = after[0] - before[0], after[1] - before[1]
    return whole > 0 and idle > (1 - SPARE) * whole
