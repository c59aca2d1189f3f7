"""Weights of other projects: state_dict files of torch or safetensors, read without running code in them."""

import os
import pickle
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ensemble_bench.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
# The usual names of the state_dict inside a larger checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
# As those, of weights averaged over training: taken where a file holds no others.
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "params_ema", "averaged_model", "swa_state_dict")
# Counters that averages of weights keep beside them, and that no network of the architecture has.
COUNTERS = ("n_averaged", "num_updates", "decay")
# Batch norm counts its batches in training alone; weights from before it did lack the count, and torch loads them.
COUNTED = "num_batches_tracked"
# DataParallel, a wrapper's `self.model` and torch.compile put these before every name.
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "ema_model.", "ema.")
CONFIG = "config.json"
"""Description of a network beside its weights, as Hugging Face's transformers saves it."""
_FORCE, _UNDO = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def is_of_transformers(folder: Path) -> bool:
    """Whether a folder was written by save_pretrained of Hugging Face's transformers."""
    try:
        return '"model_type"' in (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def read(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file, alone or in a checkpoint under one of `WRAPPERS` or `AVERAGED`, its names unchanged.

    Raises CheckpointError when it cannot be read, holds more than tensors and plain values, or holds no state_dict.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a damaged file leads it to
        raise CheckpointError(f"{path}: {reason(error)}") from error
    whole = content
    while isinstance(content, Mapping):
        if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
            return dict(content)
        content = next((content[key] for key in (*WRAPPERS, *AVERAGED) if key in content), None)
    found = _listed(map(str, whole)) if isinstance(whole, Mapping) else f"a {type(whole).__name__}"
    keys = ", ".join((*WRAPPERS, *AVERAGED))
    raise CheckpointError(
        f"{path}: no state_dict in it, expected names and tensors, alone or as {keys}: it holds {found}"
    )


def fill(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load `weights`, read from `path`, into `network`; raises CheckpointError unless they fit and are finite."""
    expected = network.state_dict()
    held = weights = _stripped({n: v for n, v in weights.items() if n in expected or n not in COUNTERS}, expected)
    counts = {n: v for n, v in expected.items() if n.endswith(COUNTED) and n not in weights}
    weights = {**weights, **counts}
    if odd := sorted(set(weights) ^ set(expected)):
        kind = "lacks" if odd[0] in expected else "has an unexpected"
        raise CheckpointError(
            f"{path}: does not fit its architecture: {kind} {odd[0]} (of {len(odd)} such tensors); "
            f"it holds {_listed(held)}"
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            actual, wanted = tuple(value.shape), tuple(expected[name].shape)
            raise CheckpointError(f"{path}: does not fit its architecture: {name} is {actual}, expected {wanted}")
        if not _is_finite(value, expected[name].dtype, f"{path}: {name}"):
            raise CheckpointError(f"{path}: {name} holds NaN or infinite weights")
    network.load_state_dict(weights)


def _is_finite(value: Tensor, dtype: torch.dtype, what: str) -> bool:
    """Whether weights are numbers as what they become; raises CheckpointError for a kind that does not become it."""
    try:
        if value.is_complex() and not dtype.is_complex:
            raise CheckpointError(f"{what} is {value.dtype}, expected {dtype}")
        return bool(value.to(dtype).isfinite().all())
    except RuntimeError as error:  # sparse, quantised, or without values
        raise CheckpointError(f"{what} cannot be read as {dtype}: {reason(error)}") from error


@contextmanager
def weights_only() -> Iterator[None]:
    """Make every torch.load in the block refuse to run code, whatever its arguments or the environment say."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _UNDO)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def reason(error: BaseException) -> str:
    """The reason why weights were not read, in one line; torch's own message advises to run the code in the file."""
    if isinstance(error, pickle.UnpicklingError):
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            return f"holds more than tensors and plain values ({code[1]}), and code in it is never run"
        return "not a file that torch.save wrote"
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 240)}"


def _listed(names: Iterable[str]) -> str:
    """The first of some names, and how many there are."""
    listed = list(names)
    more = f", … ({len(listed)} in all)" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more if listed else "nothing"


def _stripped(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`weights` without the prefixes that all of their names have and no expected name has."""
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in weights) and not any(n.startswith(prefix) for n in expected):
                weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
