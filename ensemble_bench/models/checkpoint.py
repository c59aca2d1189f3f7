"""Checkpoints: the weights as safetensors, everything else as JSON beside them; no pickle is ever read.

The two files are replaced together: the new JSON is written as best.json.pending until best.safetensors is replaced, so
that after a crash between the two the hash tells which description belongs to the weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ensemble_bench.errors import CheckpointError
from ensemble_bench.files import sha256_bytes, sha256_file, write_atomic
from ensemble_bench.models.architecture import Architecture, CheckpointInfo
from ensemble_bench.models.build import skeleton
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import CHECKPOINTS, trained_anew
from ensemble_bench.records.seal import DamagedError, opened, sealed
from ensemble_bench.records.training import RUN_FILE, check_kinds

SCHEMA = 1
SUFFIX = ".safetensors"
KEYS = ("schema", "architecture", "meta", "weights_hash")
MAX_JSON_BYTES = 16 * 2**20


def save(
    path: Path, model: Ensemble, architecture: Architecture, meta: Mapping[str, Any], *, half: bool = False
) -> None:
    """Write `model` to `path` (…/best.safetensors) and its description to the .json beside it, each atomically.

    With `half`, weights are rounded to float16, and the rounded model is what `load` gives back, in float32. Raises
    CheckpointError, with the old checkpoint still in place, when the model is not of that architecture, a weight is NaN
    or infinite, also for being rounded, or `meta` is not JSON.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path}: a checkpoint's name ends with {SUFFIX}")
    if model.aggregation != architecture.aggregation:
        raise CheckpointError(
            f"{path}: the model averages {model.aggregation}, its architecture {architecture.aggregation}"
        )
    data = _serialise(path, model, architecture, half=half)
    pending = _pending(path)
    write_atomic(pending, _description(path, architecture, meta, sha256_bytes(data)))
    try:
        write_atomic(path, data)
    except BaseException:
        pending.unlink(missing_ok=True)
        raise
    pending.replace(path.with_suffix(".json"))


def restore(path: Path, model: Ensemble, *, half: bool = False) -> None:
    """Write the weights of a checkpoint that is described in `path`, where they are gone; atomic.

    Raises CheckpointError, with nothing written, if those of `model`, rounded as `save` does, are not the same bytes.
    """
    info = read_description(path)
    data = _serialise(path, model, info.architecture, half=half)
    if sha256_bytes(data) != info.weights_hash:
        raise CheckpointError(f"{path}: is described with other weights than these; {_remedy(path)}")
    write_atomic(path, data)


def describe(path: Path, architecture: Architecture, meta: Mapping[str, Any]) -> None:
    """Write the description of a checkpoint whose weights were not kept; raises CheckpointError if it is not JSON."""
    write_atomic(path.with_suffix(".json"), _description(path, architecture, meta, ""))


def _description(path: Path, architecture: Architecture, meta: Mapping[str, Any], weights_hash: str) -> str:
    values = {"schema": SCHEMA, "architecture": architecture.as_dict(), "meta": dict(meta)}
    values |= {"weights_hash": weights_hash}
    return _dump(path, sealed(json.loads(_dump(path, values, indent=None))), indent=2) + "\n"


def is_unchanged(model: Ensemble) -> bool:
    """Whether the weights and the aggregation of `model` are still those of its `info`."""
    info = model.info
    if info is None or model.aggregation != info.architecture.aggregation:
        return False
    weights = [value for value in model.state_dict().values() if value.is_floating_point()]
    # A rounded file has the hash of all weights that round to it, of which it holds one.
    half = all(torch.equal(value, value.half().to(value)) for value in weights)
    try:
        hashes = {sha256_bytes(_serialise(info.path, model, info.architecture, half=h)) for h in {False, half}}
    except CheckpointError:
        return False
    return info.weights_hash in hashes


def _serialise(path: Path, model: Ensemble, architecture: Architecture, *, half: bool) -> bytes:
    """Bytes of the safetensors file: the same weights and architecture give the same bytes."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    _check_weights(path, weights, architecture)
    # The architecture is inside the hashed file too, so that equal hashes mean equal models.
    metadata = {"architecture": _dump(path, architecture.as_dict(), indent=None)}
    return bytes(safetensors.torch.save(weights, metadata=metadata))


def load(source: str | Path) -> Ensemble:
    """Model of a checkpoint, in eval mode on the CPU, with its CheckpointInfo as `model.info`.

    `source` is a .safetensors file or a run directory (its headline checkpoint). Raises CheckpointError that
    names the file when it is missing, truncated, foreign or edited, does not fit its architecture, or holds NaN.
    """
    info = read_info(source)
    try:
        data = info.path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{info.path}: cannot be read: {error.strerror}") from error
    weights = _parse(info.path, data)
    if (actual := sha256_bytes(data)) != info.weights_hash:
        # A trainer may have replaced both files between our two reads; then the new description fits.
        info = read_info(info.path)
    if actual != info.weights_hash:
        raise CheckpointError(
            f"{info.path}: is not the file that its .json describes: {actual} is not {info.weights_hash}; "
            f"{_remedy(info.path)}"
        )
    _check_embedded(info, data)
    _check_weights(info.path, weights, info.architecture)
    model = skeleton(info.architecture)
    model.load_state_dict(weights)
    model.info = info
    return model.to(memory_format=torch.channels_last).eval()


def check_whole(path: Path) -> None:
    """Raise CheckpointError unless a checkpoint's weights, where they were kept, are those that it describes."""
    info = read_description(path)
    if path.exists():
        check_weights(info, path)


def check_weights(info: CheckpointInfo, file: Path) -> None:
    """Raise CheckpointError, naming the checkpoint, unless `file` holds its weights, as that itself or a copy of it."""
    if sha256_file(file) != info.weights_hash:
        raise CheckpointError(f"{info.path}: damaged: not the file that its .json describes; {_remedy(info.path)}")


def read_info(source: str | Path) -> CheckpointInfo:
    """Description of a checkpoint without loading its weights; raises CheckpointError like `load`."""
    return read_description(find(source))


def read_description(path: Path) -> CheckpointInfo:
    """As `read_info` of a file, also where its weights were not kept."""
    description = path.with_suffix(".json")
    pending = _pending(path)
    if pending.is_file():
        # A save was interrupted: the pending description is valid only if its weights had been written.
        try:
            info = _read_description(path, pending)
            if info.weights_hash == sha256_file(path):
                return info
        except (CheckpointError, OSError):
            pass
    if not description.is_file():
        raise CheckpointError(f"{path}: its description {description.name} is missing, expected beside it")
    return _read_description(path, description)


def find(source: str | Path) -> Path:
    """The .safetensors file of `source`, a file or a run directory; raises CheckpointError if there is none."""
    path = Path(source)
    if path.is_dir():
        for name in CHECKPOINTS:
            if (candidate := path / f"{name}{SUFFIX}").is_file():
                return candidate
        described = next((name for name in CHECKPOINTS if (path / f"{name}.json").is_file()), None)
        if described is not None:
            raise CheckpointError(
                f"{path}: describes {described}{SUFFIX}, which is not there: restore it, or, if the run joins "
                "others, let `ensemble-bench train` with the options of before join them again"
            )
        raise CheckpointError(
            f"{path}: no checkpoint here, expected {', '.join(CHECKPOINTS[:-1])} or {CHECKPOINTS[-1]}{SUFFIX}"
        )
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist, expected a run directory or a {SUFFIX} file")
    if path.suffix != SUFFIX or not path.is_file():
        raise CheckpointError(f"{path}: not a safetensors checkpoint, expected {SUFFIX} (pickles are never loaded)")
    return path


def _pending(path: Path) -> Path:
    return path.with_suffix(".json.pending")


def _dump(path: Path, value: object, *, indent: int | None) -> str:
    try:
        return json.dumps(value, indent=indent, sort_keys=indent is None, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is not JSON: {error}") from error


def _read_description(path: Path, description: Path) -> CheckpointInfo:
    """Parse one JSON file and check every value; raises CheckpointError."""
    try:
        if description.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{description}: larger than {MAX_JSON_BYTES} bytes, not a checkpoint's description")
        values = opened(description.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{description}: cannot be read: {error.strerror}") from error
    except DamagedError as error:
        raise CheckpointError(f"{description}: {error}; {_remedy(path)}") from error
    except ValueError as error:
        raise CheckpointError(f"{description}: not JSON: {error}; {_remedy(path)}") from error
    if not isinstance(values, dict) or set(values) != set(KEYS):
        raise CheckpointError(
            f"{description}: not a checkpoint's description, expected the keys {', '.join(KEYS)}; {_remedy(path)}"
        )
    if values["schema"] != SCHEMA:
        raise CheckpointError(f"{description}: schema is {values['schema']!r}, this version reads {SCHEMA}")
    if not isinstance(values["meta"], dict) or not isinstance(values["weights_hash"], str):
        raise CheckpointError(f"{description}: meta must be an object and weights_hash a string")
    try:
        architecture = Architecture.from_dict(values["architecture"])
        check_kinds(values["meta"], "meta")
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{description}: {error}") from error
    return CheckpointInfo(
        path=path, architecture=architecture, meta=values["meta"], weights_hash=values["weights_hash"]
    )


def _remedy(path: Path) -> str:
    """How to make a checkpoint anew, for an error that names it as damaged."""
    if (path.parent / RUN_FILE).exists():
        return trained_anew(path.parent)
    return "restore it from where it comes from, or train it anew with `ensemble-bench train`"


def _parse(path: Path, data: bytes) -> dict[str, Tensor]:
    if data[:4] == b"PK\x03\x04" or data[:1] == b"\x80":
        raise CheckpointError(f"{path}: not a safetensors checkpoint but a pickle, which is never loaded")
    try:
        weights: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors checkpoint: {error}; {_remedy(path)}") from error
    return weights


def _check_embedded(info: CheckpointInfo, data: bytes) -> None:
    """Raise CheckpointError unless the architecture inside the hashed file is that of the JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    embedded = (header.get("__metadata__") or {}).get("architecture")  # null is none, too
    if embedded != _dump(info.path, info.architecture.as_dict(), indent=None):
        raise CheckpointError(f"{info.path}: was saved with another architecture than its .json tells")


def _check_weights(path: Path, weights: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Raise CheckpointError unless names, shapes and types fit the architecture and every value is finite."""
    expected = skeleton(architecture, device="meta").state_dict()
    if odd := sorted(set(weights) ^ set(expected)):
        kind = "lacks" if odd[0] in expected else "has an unexpected"
        raise CheckpointError(f"{path}: does not fit its architecture: {kind} {odd[0]} (of {len(odd)} such tensors)")
    floats = [value.dtype for value in weights.values() if value.is_floating_point()]
    half = bool(floats) and set(floats) == {torch.float16}  # all of them or none
    for name, value in weights.items():
        want = expected[name].half() if half and expected[name].is_floating_point() else expected[name]
        if value.shape != want.shape or value.dtype != want.dtype:
            actual = f"{value.dtype} {tuple(value.shape)}"
            raise CheckpointError(
                f"{path}: does not fit its architecture: {name} is {actual}, expected {want.dtype} {tuple(want.shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite weights")
