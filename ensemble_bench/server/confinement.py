"""What the worker's process may use, so that no submission takes the machine from others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemble_bench.data.memory import available

MEMORY_FILE = Path("/proc/self/statm")
SHARE = 0.75
"""Of the memory that is free, in the machine or its container: what the worker may use where nothing else is said."""


def memory_of(gigabytes: float | None) -> int:
    """Bytes that the worker may use: so many GiB, by default SHARE of those that are free now."""
    return int(SHARE * available() if gigabytes is None else gigabytes * 2**30)


def flush_denormals() -> None:
    """Take denormal numbers for zero from now on, in threads that are started later too.

    Computing with them takes many times as long, and weights may be made of them.
    """
    import torch

    torch.set_flush_denormal(True)


@contextmanager
def bounded(memory: int | None) -> Iterator[None]:
    """Let this process map `memory` bytes more than now inside the block, and as much as before behind it.

    What fails for want of it raises MemoryError, or PyTorch's own error. The bound ends with the block, so that the
    queue's file, which is mapped too, can always be written. Nothing is bound where the system has no such limit.
    """
    try:
        import resource

        mapped = int(MEMORY_FILE.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        memory = None
    if memory is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    stricter = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([mapped + memory, *stricter]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
