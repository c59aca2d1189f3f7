"""Submissions as bundles: one folder or .zip that holds a model and what is claimed of it, and nothing else.

A bundle comes from a stranger, so every byte is checked here before it is used, and no code of it ever runs. The checks
that need a model's skeleton are in `ensemble_bench.submissions.verification`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ensemble_bench import registry
from ensemble_bench.errors import BundleError, InvalidValueError, RecordError, shortened
from ensemble_bench.files import new_folder
from ensemble_bench.leaderboard.model_info import RESULTS, ModelInfo
from ensemble_bench.records import CHECKPOINTS
from ensemble_bench.records.training import check_kinds
from ensemble_bench.submissions.format import archive, claims, tensors
from ensemble_bench.submissions.format.archive import CARD, CLAIMS, CONFIG, MODEL_INFO, WEIGHTS
from ensemble_bench.submissions.format.claims import Claim
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.submissions.format.untrusted import check_page, parse_json, quoted

CONFIG_KEYS = {"schema", "architecture", "meta", "weights_hash"}
LINK = r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[^\s\"'<>\\]*)?"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A checked bundle, unpacked in `folder`: config.json, RobustBench's entry, the claims and the card."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    info: ModelInfo
    claims: tuple[Claim, ...]
    card: str

    @property
    def model(self) -> str:
        """The model as records name it, such as "mine/best": the bundle's name and that of the checkpoint."""
        return f"{self.name}/{self.config['meta'].get('checkpoint') or 'best'}"

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return self.folder / WEIGHTS

    @property
    def weights_hash(self) -> str:
        """The hash that config.json gives for the weights ("sha256:…"); whether it is theirs is not checked here."""
        return str(self.config["weights_hash"])


def unpack(path: Path, folder: Path, *, limits: Limits | None = None) -> Bundle:
    """Check the bundle at `path`, a folder or a .zip, and put a copy of it into the new or empty `folder`.

    Raises BundleError, whose one line names what is wrong, for anything that is not a bundle within `limits`; then
    nothing is left in `folder`.
    """
    path, folder, limits = Path(path), Path(folder), limits or Limits()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder}: exists and is not an empty folder")
    with new_folder(folder) as filled:
        archive.extract(path, filled, limits)
        bundle = check(filled, limits)
    return replace(bundle, folder=folder)


def check(folder: Path, limits: Limits) -> Bundle:
    """The bundle whose FILES are in `folder`, every byte of them checked; raises BundleError."""
    bundle = read(folder, limits)
    tensors.check_tensors(bundle.weights, limits)
    return bundle


def read(folder: Path, limits: Limits) -> Bundle:
    """The bundle that `unpack` put into `folder` before: its texts, parsed again; raises BundleError."""
    config = _config(_json(folder, CONFIG), limits)
    parsed = claims.parse(_json(folder, CLAIMS), limits)
    info = _info(_json(folder, MODEL_INFO))
    card = check_page(_bytes(folder, CARD), CARD)
    return Bundle(
        name=parsed.name,
        folder=folder,
        config=config,
        info=info,
        claims=parsed.claims,
        card=card,
    )


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{name}: cannot be read: {error.strerror}") from None
    # Where our own copy cannot be read for another reason, the bundle is not to blame.


def _json(folder: Path, name: str) -> Any:
    return parse_json(_bytes(folder, name), name)


def _config(values: Any, limits: Limits) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) != CONFIG_KEYS:
        raise BundleError(f"{CONFIG}: expected the keys {', '.join(sorted(CONFIG_KEYS))}")
    if values["schema"] != 1:
        raise BundleError(f"{CONFIG}: schema is {quoted(str(values['schema']))}, this version reads 1")
    if not isinstance(values["weights_hash"], str) or not re.fullmatch(claims.HASH, values["weights_hash"]):
        raise BundleError(f"{CONFIG}: weights_hash is no {claims.HASH}")
    architecture, meta = values["architecture"], values["meta"]
    if not isinstance(architecture, dict) or not isinstance(meta, dict):
        raise BundleError(f"{CONFIG}: architecture and meta must be objects")
    for name, most in (("classes", limits.max_classes), ("members", limits.max_members)):
        value = architecture.get(name)
        if type(value) is not int or not 1 <= value <= most:
            raise BundleError(f"{CONFIG}: architecture.{name} is {quoted(str(value))}, expected 1 to {most}")
    try:
        about = check_kinds(meta, "meta")
        if about.preset is not None:
            # Evaluation chooses the black-box set by it.
            registry.check("preset", about.preset)
        if about.checkpoint not in (None, *CHECKPOINTS):
            # Files are named by it.
            raise ValueError(f"meta.checkpoint is {quoted(about.checkpoint)}: expected one of {', '.join(CHECKPOINTS)}")
    except ValueError as error:
        raise BundleError(f"{CONFIG}: {shortened(str(error))}") from None
    return values


def _info(values: Any) -> ModelInfo:
    """RobustBench's entry; unlike theirs, one may have no result where AutoAttack has not been run."""
    try:
        if isinstance(values, dict) and not any(key in values for key in RESULTS):
            info = replace(ModelInfo.from_dict(values | {"autoattack_acc": "0"}), autoattack_acc=None)
        else:
            info = ModelInfo.from_dict(values)
    except (RecordError, InvalidValueError) as error:
        raise BundleError(f"{MODEL_INFO}: {shortened(str(error))}") from None
    if info.link and not re.fullmatch(LINK, info.link):
        raise BundleError(f"{MODEL_INFO}: link is {quoted(info.link)}, expected an http address or nothing")
    return info
