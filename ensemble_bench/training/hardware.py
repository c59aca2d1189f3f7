"""The device to compute on, the threads of a processor, and the precision that it computes in natively."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ensemble_bench.errors import InvalidValueError, UnknownNameError, check_whole
from ensemble_bench.training.cores import idle_cores

MOST_THREADS = 1024
"""PyTorch starts as many as it is told, until the system gives no more and the process ends."""
PRECISIONS = ("float32", "bf16", "auto")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return "float32" or "bf16"; "auto" is bf16 on hardware that computes in it natively, else float32.

    Raises UnknownNameError for any other name.
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    # Emulated bf16 is many times slower than float32; older torch versions lack the check.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if device.type == "cpu" and native() else "float32"


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return `device`, by default a GPU if there is one; raises InvalidValueError for one that this machine lacks."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise InvalidValueError(f"device is {device!r}: expected cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InvalidValueError(f"device is {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return chosen


def gpus_of(device: str | torch.device | None) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES is for a process on each GPU that `device` leaves open, so that it sees that one alone.

    One that is named is what it is among all: one place, which sees them all. Empty for a processor; raises as
    `resolve_device`.
    """
    chosen = resolve_device(device)
    if chosen.type != "cuda":
        return ()
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return tuple(visible.split(",")[:count]) if chosen.index is None else (visible,)


def default_threads() -> int:
    """As many threads as PyTorch would use, but no more than there are idle cores now; at least 1."""
    usual = torch.get_num_threads()
    return usual if usual == 1 else min(usual, idle_cores())


@contextmanager
def computing_on(threads: int | None) -> Iterator[None]:
    """Let PyTorch compute with so many threads inside the block; None: with as many as before.

    Another number may change the last bits of a result. Raises InvalidValueError for less than 1, or more than
    MOST_THREADS.
    """
    before = torch.get_num_threads()
    if threads is not None:
        check_whole("threads", threads, least=1, most=MOST_THREADS)
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
