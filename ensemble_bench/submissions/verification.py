"""Verify a submission by running it: build the model from its description and weights alone, and evaluate it again."""

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ensemble_bench import data, registry
from ensemble_bench.data import DataSource
from ensemble_bench.errors import (
    AttackError,
    BundleError,
    CheckpointError,
    InvalidValueError,
    RecordError,
)
from ensemble_bench.evaluation import blackbox
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.files import sha256_file, write_atomic
from ensemble_bench.leaderboard.model_info import ModelInfo
from ensemble_bench.models import checkpoint, cost
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import CHECKPOINTS, Record
from ensemble_bench.registry import BLACKBOX, suite_of
from ensemble_bench.submissions import NOT_REPRODUCED, REFUSED, VERIFIED
from ensemble_bench.submissions.format.bundle import Bundle, unpack
from ensemble_bench.submissions.format.claims import SPLIT, Claim, agreeing_counts
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import resolve_device
from ensemble_bench.training.provenance import versions

CHEAPEST = "tiny"
BUNDLE, MODELS = "bundle", "evaluated"
"""Folders below a verification's `work`: the unpacked bundle, and its model as a checkpoint with our records of it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A claim, our record of its repetition, and the reasons, if any, why they disagree."""

    claim: Claim
    record: Record
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The verdict on a submission: `status` is one of submissions.STATUSES, `reasons` say why it is not verified.

    `records` are the verifier's own, views of an ensemble included. `name`, `weights_hash` and `info` are None for a
    bundle that could not be read; `date` is in UTC.
    """

    name: str | None
    status: str
    reasons: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    weights_hash: str | None = None
    info: ModelInfo | None = None
    date: str

    def as_dict(self) -> dict[str, Any]:
        """The published verdict as plain JSON values; `n` is the number of images of the largest repetition."""
        whole = [comparison.record for comparison in self.comparisons]
        return {
            "status": self.status,
            "reasons": list(self.reasons),
            "suites": sorted({record.suite for record in whole}),
            "n": max((record.n for record in whole), default=0),
            "date": self.date,
            "weights_hash": self.weights_hash,
            "versions": versions(),
        }


def verify(
    source: str | Path | Bundle,
    *,
    suite: str | None = None,
    n: int | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    limits: Limits | None = None,
    work: str | Path,
    runs: str | Path = "runs",
    progress: Progress = silent,
) -> Verification:
    """Repeat what a bundle claims, and say whether it came out again.

    `source` is its path, which is unpacked in `work`, or a bundle that was unpacked and checked before.

    Each claim is evaluated with its own suite, seed, threat model and number of images, on our data, against our own
    black-box set where the suite has one (below `runs`: the one of the model's preset if it is there, else of preset
    tiny, which is built where there is none). `suite` picks the claims of one suite, `n` uses at most so many images.
    It is verified where clean and robust accuracy agree with every claim
    (agreeing_counts), not reproduced where one does not or the weights are not those that the claims are of, and
    refused where it is no bundle within `limits` or cannot be checked on the data here. A bad bundle raises nothing;
    DataError means that the data set is not on this machine.

    `work`, a folder for this alone, keeps the unpacked bundle and our records: an interrupted verification of the same
    bundle goes on there. Nothing stays there of one that is refused.
    """
    work, limits = Path(work), limits or Limits()
    bench = _Bench(runs=Path(runs), data_dir=data_dir, device=resolve_device(device), progress=progress)
    if suite is not None:
        registry.split_suite(suite)
    if n is not None and n < 1:
        raise InvalidValueError(f"n is {n}: expected at least 1 image")
    result = Verification(name=None, status=REFUSED, date=datetime.now(UTC).isoformat(timespec="seconds"))
    if not isinstance(source, Bundle):
        prepare(work, Path(source))
    try:
        bundle = source if isinstance(source, Bundle) else unpack(Path(source), work / BUNDLE, limits=limits)
        result = replace(result, name=bundle.name, weights_hash=bundle.weights_hash, info=bundle.info)
        if reasons := _wrong_hashes(bundle):
            return replace(result, status=NOT_REPRODUCED, reasons=reasons)
        claims = _chosen(bundle, suite)
        images = data.open_source(claims[0].dataset, data_dir)
        _check_model(bundle, images, limits)
        _check_images(claims, images)
        model, preset = _checkpoint(bundle, work), bundle.config["meta"].get("preset")
        repeated = [_repeat(claim, model, n, bench, bench.blackbox_set(claim, images, preset)) for claim in claims]
    except (BundleError, CheckpointError, InvalidValueError, RecordError, AttackError) as error:
        clear(work, BUNDLE, MODELS)
        return replace(result, reasons=(_without_paths(str(error), work),))
    comparisons = tuple(_compare(claim, records) for claim, records in zip(claims, repeated, strict=True))
    wrong = tuple(reason for comparison in comparisons for reason in comparison.reasons)
    return replace(
        result,
        status=NOT_REPRODUCED if wrong else VERIFIED,
        reasons=wrong,
        # Two claims that `n` made one evaluation share its record.
        records=tuple({record.id: record for records in repeated for record in records}.values()),
        comparisons=comparisons,
    )


def prepare(work: Path, source: Path) -> None:
    """Remove what an earlier verification unpacked in `work`; raises InvalidValueError if other things are there."""
    if source.resolve() == (work / BUNDLE).resolve():
        raise InvalidValueError(f"work is {work}: the bundle itself lies where it would be unpacked")
    if not work.exists():
        return
    stale = [path for path in work.iterdir() if path.name == BUNDLE or path.name.startswith(f".{BUNDLE}.")]
    if foreign := sorted(path.name for path in {*work.iterdir()} - {*stale, work / MODELS}):
        raise InvalidValueError(f"work is {work}: holds {foreign[0]}, give it a folder of its own")
    for path in stale:
        shutil.rmtree(path)


def clear(work: Path, *folders: str) -> None:
    """Remove these folders of `work`, and `work` if nothing else is in it."""
    for folder in folders:
        shutil.rmtree(work / folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        work.rmdir()


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """Where and on what a verifier evaluates."""

    runs: Path
    data_dir: str | Path | None
    device: torch.device
    progress: Progress

    def blackbox_set(self, claim: Claim, source: DataSource, preset: str | None) -> Path | None:
        """The set for a claim's suite on a model of `preset`, None where the suite has no use for one.

        A stranger chooses the preset of a model, but not that surrogates of this size are trained here.
        """
        if BLACKBOX not in suite_of(claim.suite).attacks:
            return None
        threat = ThreatModel(**claim.threat.as_dict())
        for name in (preset or CHEAPEST, CHEAPEST):
            base = blackbox.default_out(source.name, name, threat, root=self.runs / BLACKBOX)
            path = base.with_name(f"{base.name}{blackbox.SUFFIX}")
            if path.exists():
                return path
        return blackbox.build(
            source.dataset,
            preset=CHEAPEST,
            out=path,
            data_dir=self.data_dir,
            norm=claim.norm,
            eps=claim.eps,
            device=self.device,
            progress=self.progress,
        )


def _repeat(claim: Claim, model: Path, n: int | None, bench: _Bench, blackbox_set: Path | None) -> list[Record]:
    """Our records of a claimed evaluation: of the model, and of the parts that the suite scores on their own."""
    return evaluate_checkpoints(
        [model],
        runs=bench.runs,
        suite=claim.suite,
        dataset=claim.dataset,
        data_dir=bench.data_dir,
        n=min(claim.n, n or claim.n),
        seed=claim.seed,
        norm=claim.norm,
        eps=claim.eps,
        blackbox=blackbox_set,
        precision="float32",
        device=bench.device,
        progress=bench.progress,
    )


def _wrong_hashes(bundle: Bundle) -> tuple[str, ...]:
    """Reasons where the weights are not those that the description and the claims are of."""
    said, actual = bundle.weights_hash, sha256_file(bundle.weights)
    if actual != said:
        return (f"model.safetensors was changed: it is {actual}, config.json describes {said}",)
    if bundle.claims[0].weights_hash != said:
        return (f"the claims are of other weights: of {bundle.claims[0].weights_hash}, the bundle holds {said}",)
    return ()


def _chosen(bundle: Bundle, suite: str | None) -> list[Claim]:
    chosen = [claim for claim in bundle.claims if suite in (None, claim.suite)]
    if not chosen:
        claimed = ", ".join(sorted({claim.suite for claim in bundle.claims}))
        raise BundleError(f"nothing is claimed of suite {suite}, only of {claimed}")
    return chosen


def _check_images(claims: Sequence[Claim], source: DataSource) -> None:
    """Raise BundleError unless the images of the claims are those that are here."""
    first, available = claims[0], len(source.split(SPLIT))
    if (first.data_hash, first.data_name) != (source.fingerprint, source.name):
        raise BundleError(
            f"cannot be checked here: claimed on {first.data_name} ({first.data_hash}), here is {source.name} "
            f"({source.fingerprint})"
        )
    for claim in claims:
        if claim.n > available:
            raise BundleError(f"{claim}: the {SPLIT} split of {source.name} holds {available}")


def _check_model(bundle: Bundle, source: DataSource, limits: Limits) -> None:
    """Raise BundleError unless the model, of which nothing is built yet, is small enough and fits the data set."""
    architecture = Architecture.from_dict(bundle.config["architecture"])
    if architecture.classes != len(source.classes):
        raise BundleError(f"config.json: classes is {architecture.classes}, {source.name} has {len(source.classes)}")
    if tuple(architecture.image_shape) != tuple(source.image_shape):
        raise BundleError(
            f"config.json: takes images of {architecture.image_shape}, {source.name} {source.image_shape}"
        )
    one = replace(architecture, members=1, gated=False)
    if (count := architecture.members * cost.parameters(one)) > limits.max_parameters:
        raise BundleError(f"config.json: {count} parameters, at most {limits.max_parameters} are taken")
    try:
        cost.flops(one)  # a pass without numbers
    except RuntimeError as error:
        raise BundleError(f"config.json: {architecture.backbone} does not take such images: {error}") from error


def _checkpoint(bundle: Bundle, work: Path) -> Path:
    """Write the model as the checkpoint of a run with the bundle's name: our records name it by that."""
    stem = bundle.config["meta"].get("checkpoint") or "best"
    path = work / MODELS / bundle.name / f"{stem}{checkpoint.SUFFIX}"
    write_atomic(path.with_suffix(".json"), (bundle.folder / "config.json").read_bytes())
    write_atomic(path, bundle.weights.read_bytes())
    return path


def _compare(claim: Claim, records: Sequence[Record]) -> Comparison:
    """Whether the record of the whole model agrees with the claim that it repeats, on as many images or the first."""
    record = next(record for record in records if record.view is None)
    reasons = []
    for what, claimed, count in (
        ("clean", claim.clean, record.clean.correct),
        ("robust", claim.robust, record.robust.robust),
    ):
        low, high = agreeing_counts(claimed.ci_low, claimed.ci_high, claim.n, record.n)
        if not low <= count <= high:
            reasons.append(
                f"{claim.suite}: {what} accuracy is {count / record.n:.4f} ({count} of {record.n} images), the claim "
                f"of {claimed.accuracy:.4f} on {claim.n} allows {low} to {high}"
            )
    return Comparison(claim=claim, record=record, reasons=tuple(reasons))


def _without_paths(message: str, work: Path) -> str:
    """An error's message for strangers, without the paths of our files."""
    for folder in (work, work.resolve()):
        message = message.replace(f"{folder}/", "")
    return re.sub(rf"{MODELS}/[^/ ]+/({'|'.join(CHECKPOINTS)})\.safetensors", "model.safetensors", message)
