"""Whether images fit into memory, before any of them is decoded."""

import os
from pathlib import Path

from ensemble_bench.errors import DataError

# What the system tells of memory: that of the machine, then the limits of a container.
MEMINFO = Path("/proc/meminfo")
LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


# Of a container's memory.stat: what holds copies of files, of version 2, and of 1 with its children.
CACHED = ("inactive_file", "active_file"), ("total_inactive_file", "total_active_file")


def available() -> int:
    """Bytes that can be had now, as far as the system tells."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass  # another system than Linux
    for limit, used in LIMITS:
        try:
            found.append(int(limit.read_text()) - int(used.read_text()) + _cached(limit.with_name("memory.stat")))
        except (OSError, ValueError):
            continue  # no container, or one without a limit ("max")
    return max(min(found), 0)


def _cached(stat: Path) -> int:
    """Bytes that count as used, but hold copies of files, such as images just read: the kernel frees them at need."""
    try:
        found = dict(line.split() for line in stat.read_text().splitlines())
        # Those with children are more where both are told.
        return max(sum(int(found.get(key, 0)) for key in keys) for keys in CACHED)
    except (OSError, ValueError):
        return 0


def check_fits(n: int, image_shape: tuple[int, ...], what: str) -> None:
    """Raise DataError, naming the sizes, unless `n` images of a byte a value fit into memory."""
    size = n
    for side in image_shape:
        size *= side
    shape = "x".join(str(side) for side in image_shape)
    check_bytes_fit(size, f"{what}: {n:,} images of {shape}", "a smaller size (--resize, --crop) or fewer images")


def check_bytes_fit(size: int, what: str, choice: str = "fewer images") -> None:
    """Raise DataError, naming what there are and the `choice`, unless so many bytes fit into memory."""
    if size > (there := available()):
        raise DataError(
            f"{what} take {size / 2**30:,.1f} GiB of memory, {there / 2**30:,.1f} GiB are free: choose {choice}"
        )
