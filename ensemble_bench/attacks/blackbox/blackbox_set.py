"""Black-box sets on disk: adversarial images that fool networks which no model under test has seen."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from ensemble_bench.errors import DataError
from ensemble_bench.files import sha256_bytes, write_atomic
from ensemble_bench.records import Surrogate, Threat, opened, sealed
from ensemble_bench.records.decoding import decode
from ensemble_bench.threat import ThreatModel

REMEDY = "`ensemble-bench blackbox build`, with the options of before, makes it anew"


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What every set's JSON tells, beside more."""

    hash: str
    keep_rate: float
    considered: int
    surrogates: tuple[Mapping[str, Any], ...]
    data_hash: str
    threat: Threat


@dataclass(frozen=True, kw_only=True, eq=False)
class BlackboxSet:
    """Adversarial images `x_adv` of the images `ids` of a split, in ascending order of id, and their true labels.

    `info` says how they were made: "hash" of the images' file, "keep_rate" (share of the "considered" images that
    were kept), "surrogates", "data_hash", "threat", and more.
    """

    ids: Int64[Tensor, "kept"]
    x_adv: Float[Tensor, "kept channel row column"] = field(repr=False)
    labels: Int64[Tensor, "kept"] = field(repr=False)
    info: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def threat(self) -> ThreatModel:
        """Threat model that the images keep to."""
        return ThreatModel(**self.info["threat"])


def save_blackbox(
    path: Path,
    *,
    ids: Int64[Tensor, "kept"],
    x_adv: Float[Tensor, "kept channel row column"],
    labels: Int64[Tensor, "kept"],
    info: Mapping[str, Any],
) -> None:
    """Write <path>.safetensors and beside it the JSON, each atomically, the JSON with the images' hash last."""
    tensors = {"ids": ids, "x_adv": x_adv, "labels": labels}
    data = to_bytes({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    write_atomic(path, data)
    write_atomic(path.with_suffix(".json"), json.dumps(sealed({"hash": sha256_bytes(data), **info}), indent=2) + "\n")


def load_blackbox(path: Path) -> BlackboxSet:
    """Read a black-box set (…/name.safetensors); raises DataError for one that is missing, damaged or foreign."""
    if path.suffix != ".safetensors":
        raise DataError(f"{path} is not a black-box set: expected a .safetensors file")
    info = read_blackbox_info(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): make it with `ensemble-bench blackbox build`"
        ) from None
    if sha256_bytes(data) != info["hash"]:
        raise DataError(f"{path} does not have the hash that {path.stem}.json gives: {REMEDY}")
    try:
        tensors = from_bytes(data)
        ids, x_adv, labels = tensors["ids"], tensors["x_adv"], tensors["labels"]
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{path} is not a black-box set ({error})") from None
    _check(path, ids, x_adv, labels)
    return BlackboxSet(ids=ids, x_adv=x_adv, labels=labels, info=info)


def read_blackbox_info(path: Path) -> dict[str, Any]:
    """Read only the JSON of the set at `path` (…/name.safetensors); raises DataError as load_blackbox does."""
    beside = path.with_suffix(".json")
    try:
        info = opened(beside.read_bytes())
        keys = [f.name for f in fields(_Told)]
        if not isinstance(info, dict) or not info.keys() >= {*keys}:
            raise ValueError(f"expected an object with {', '.join(sorted(keys))}")
        told: _Told = decode(_Told, {key: info[key] for key in keys}, "set")
        for network in told.surrogates:
            decode(Surrogate, {f.name: network.get(f.name) for f in fields(Surrogate)}, "surrogates")
        ThreatModel(**told.threat.as_dict())
    except OSError as error:
        raise DataError(
            f"{beside} cannot be read ({error.strerror}): make it with `ensemble-bench blackbox build`"
        ) from None
    except ValueError as error:
        raise DataError(f"{beside} does not describe a black-box set: {error}; {REMEDY}") from None
    return dict(info)


def _check(path: Path, ids: Tensor, x_adv: Tensor, labels: Tensor) -> None:
    """Raise DataError unless the three tensors fit each other and hold what they should."""
    kept = len(ids) if ids.dim() else 0
    shapes = (
        ids.shape == (kept,) == labels.shape and x_adv.dim() == 4 and len(x_adv) == kept,
        ids.dtype == labels.dtype == torch.int64 and x_adv.dtype == torch.float32,
    )
    if not all(shapes):
        raise DataError(
            f"{path}: ids, x_adv and labels do not fit each other: {ids.shape}, {x_adv.shape}, {labels.shape}"
        )
    if (ids.diff() <= 0).any():
        raise DataError(f"{path}: its ids do not ascend, so an image could stand there twice")
    if not ((x_adv >= 0) & (x_adv <= 1)).all():
        raise DataError(f"{path}: its images leave [0, 1]")
