"""Pickled CIFAR batches, read without running code in them."""

import codecs
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ensemble_bench.errors import DataError


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Replacement of codecs.encode, which Python 3 calls for bytes in pickles of protocol 2."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return the callables that a batch may name: NumPy's for arrays and numbers, under old and new module names."""
    # These are the names that NumPy itself writes into pickles; there are no public ones.
    from numpy._core import multiarray, numeric

    multi: Any = multiarray
    calls: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
    }
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray", "_reconstruct"] = multi._reconstruct
        calls[f"{core}.multiarray", "scalar"] = multi.scalar
        calls[f"{core}.numeric", "_frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]
    return calls


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that knows only the callables in _allowed, so that a pickle cannot run other code."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return an allowed callable; raises UnpicklingError for any other."""
        try:
            return _allowed()[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type."""
    return (str(error) or type(error).__name__).splitlines()[0]


def load_arrays(path: Path, what: str = "CIFAR-10 batch") -> dict[str, Any]:
    """Read a pickled dict of arrays, lists, numbers and text; raises DataError for anything else."""
    try:
        with path.open("rb") as file:
            # The official files were written by Python 2, whose strings hold the pixels as bytes.
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except OSError:
        raise
    # A damaged pickle makes the unpickler raise nearly anything: EOFError, ValueError, IndexError, MemoryError.
    except Exception as error:
        raise DataError(f"{path} is not a {what}: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a {what}: expected a dict with data and labels")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
