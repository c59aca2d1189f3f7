"""What to train on: the device, and whether it computes natively in bf16."""

import torch

from ensemble_bench.errors import InvalidValueError, UnknownNameError

PRECISIONS = ("float32", "bf16", "auto")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return "float32" or "bf16": "auto" is bf16 where the hardware computes in it natively.

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
    """Return `device`, by default a GPU if there is one; raises InvalidValueError for one that is not here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InvalidValueError(f"device is {device!r}: expected cpu, cuda or cuda:N") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InvalidValueError(f"device is {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return found
