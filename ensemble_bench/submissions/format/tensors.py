"""safetensors files of strangers, checked without loading them: header, layout, and that every weight is a number."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ensemble_bench.errors import BundleError
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.submissions.format.untrusted import parse_json, quoted

DTYPES: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}
MAX_HEADER = 4 * 2**20
MAX_AXES = 8
CHUNK = 2**20


def check_tensors(path: Path, limits: Limits) -> None:
    """Raise BundleError unless `path` is a whole safetensors file within `limits` whose every weight is finite.

    Its tensors must fill it without gap or overlap, in types that PyTorch and NumPy share.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        tensors, start = _header(file, path.name, size)
        spans = sorted((*_layout(path.name, name, about), name) for name, about in tensors.items())
        floats = sum((end - begin) // np.dtype(kind).itemsize for begin, end, kind, _ in spans if "f" in kind)
        if floats > limits.max_parameters:
            raise BundleError(f"{path.name}: {floats} parameters, at most {limits.max_parameters} are taken")
        at = 0
        for begin, end, _, name in spans:
            if begin != at:
                raise BundleError(f"{path.name}: {quoted(name)} begins at byte {begin} of the weights, expected {at}")
            at = end
        if start + at != size:
            raise BundleError(f"{path.name}: {size} bytes, but its tensors end at {start + at}: truncated or padded")
        for begin, end, kind, name in spans:
            if "f" in kind:
                file.seek(start + begin)
                _check_finite(file, end - begin, kind, f"{path.name}: {quoted(name)}")


def _header(file: IO[bytes], where: str, size: int) -> tuple[dict[str, Any], int]:
    """Tensors by name as the header describes them, and where the weights begin."""
    head = file.read(8)
    if head[:1] == b"\x80" or head[:4] == b"PK\x03\x04":
        raise BundleError(f"{where}: a pickle, which is never loaded; expected safetensors")
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
        raise BundleError(f"{where}: not safetensors, or truncated: its header takes {length} of {size} bytes")
    header = parse_json(file.read(length), f"{where}'s header")
    if not isinstance(header, dict):
        raise BundleError(f"{where}: its header is no object")
    header.pop("__metadata__", None)
    if not header:
        raise BundleError(f"{where}: holds no tensor")
    return header, 8 + length


def _layout(where: str, name: str, about: Any) -> tuple[int, int, str]:
    """First byte, last byte and NumPy type of a tensor; raises BundleError where its size is not that of its shape."""
    where = f"{where}: {quoted(name)}"
    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        raise BundleError(f"{where}: expected dtype, shape and data_offsets")
    kind, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise BundleError(f"{where}: dtype is {quoted(str(kind))}, expected {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MAX_AXES:
        raise BundleError(f"{where}: shape is {quoted(str(shape))}, expected at most {MAX_AXES} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise BundleError(f"{where}: data_offsets are {quoted(str(offsets))}, expected two")
    begin, end = offsets
    if end - begin != math.prod(shape) * np.dtype(DTYPES[kind]).itemsize:
        raise BundleError(f"{where}: {kind} of shape {quoted(str(shape))} does not take {end - begin} bytes")
    return begin, end, DTYPES[kind]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _check_finite(file: IO[bytes], size: int, kind: str, where: str) -> None:
    while size:
        chunk = file.read(min(CHUNK, size))
        if not chunk or not np.isfinite(np.frombuffer(chunk, dtype=kind)).all():
            raise BundleError(f"{where}: NaN, infinite or missing weights")
        size -= len(chunk)
