"""What the worker's process may use, so that no submission takes the machine from others."""

import os
from pathlib import Path

MEMORY_FILE = Path("/proc/self/statm")
SHARE = 0.75
"""Of the machine's memory, which the worker may use where nothing else is said."""


def memory_of(gigabytes: float | None) -> int | None:
    """Bytes that the worker may use: so many GiB, by default SHARE of the machine's; None where that is not known."""
    if gigabytes is not None:
        return int(gigabytes * 2**30)
    try:
        return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return None


def confine(memory: int | None) -> None:
    """Bound this process's memory to `memory` bytes beyond what it has mapped now, and flush denormal numbers to zero.

    Threads that are started later inherit the second: computing with denormals takes many times as long. Nothing is
    bound where the system has no such limit; a stricter one that stands stays.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        import resource

        mapped = int(MEMORY_FILE.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return
    if memory is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = mapped + memory
        for stands in (soft, hard):
            if stands != resource.RLIM_INFINITY:
                bound = min(bound, stands)
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
