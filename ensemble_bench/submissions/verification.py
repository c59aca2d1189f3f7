"""Verify a submission by running it: build the model from its description and weights alone, and evaluate it again."""

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ensemble_bench import data, registry
from ensemble_bench.data import DataSource
from ensemble_bench.errors import AttackError, BundleError, CheckpointError, InvalidValueError
from ensemble_bench.files import sha256_file, write_atomic
from ensemble_bench.leaderboard.model_info import ModelInfo
from ensemble_bench.leaderboard.rules import PRECISION, Rules, rules_file
from ensemble_bench.leaderboard.verified import Verdict, Verified
from ensemble_bench.models import checkpoint, cost
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import CHECKPOINTS, NamedWarning, Record
from ensemble_bench.records.conditions import precision_of
from ensemble_bench.registry.terms import NOT_REPRODUCED, REFUSED, TEST, VERIFIED
from ensemble_bench.submissions import audit
from ensemble_bench.submissions.bench import Asked, Bench, asked_by, evaluated, rules_on
from ensemble_bench.submissions.faults import is_of_machine
from ensemble_bench.submissions.format.bundle import Bundle, unpack
from ensemble_bench.submissions.format.claims import Agreement, Claim, agreement
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import resolve_device
from ensemble_bench.training.provenance import versions

BUNDLE, MODELS = "bundle", "evaluated"
"""Folders below a verification's `work`: the unpacked bundle, and its model as a checkpoint with our records of it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A claim, our record of its repetition, on how many images they differ, and the reason, if any, to say they do."""

    claim: Claim
    record: Record
    agreement: Agreement
    allowed: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The verdict on a submission: `status` is one of registry.terms.STATUSES, `reasons` say why it is not verified.

    `records` are the verifier's own, views of an ensemble and the evaluation by the board's rules included; the test
    split holds `images`. `flags` are signs against the model that no evaluation finds. `name`, `weights_hash` and
    `info` are None for a bundle that could not be read; `date` is in UTC.
    """

    name: str | None
    status: str
    reasons: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    flags: tuple[NamedWarning, ...] = ()
    images: int = 0
    operator: str = ""
    weights_hash: str | None = None
    info: ModelInfo | None = None
    date: str

    def verified(self) -> Verified:
        """The verdicts to publish, one for each record of the whole model."""
        by_record = {comparison.record.id: comparison for comparison in self.comparisons}
        whole = [record for record in self.records if record.view is None]
        return Verified(
            weights_hash=str(self.weights_hash),
            verdicts=tuple(self._verdict(record, by_record.get(record.id)) for record in whole),
            flags=self.flags,
            versions=versions(),
        )

    def _verdict(self, record: Record, comparison: Comparison | None) -> Verdict:
        claimed: dict[str, Any] = {}
        if comparison is not None:
            claimed = asdict(comparison.agreement) | {
                "allowed": comparison.allowed,
                "claimed_precision": comparison.claim.precision,
            }
        return Verdict(
            record=record.id,
            suite=record.suite,
            n=record.n,
            images=self.images,
            seed=record.seed,
            precision=precision_of(record),
            status=self.status,
            by=self.operator,
            date=self.date,
            **claimed,
        )


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
    root: str | Path | None = None,
    memory: int | None = None,
    progress: Progress = silent,
) -> Verification:
    """Repeat what a bundle claims, and say whether it came out again.

    `source` is its path, which is unpacked in `work`, or a bundle that was unpacked and checked before.

    Each claim is evaluated with its own suite, seed, threat model and number of images, on our data, in the precision
    that it was claimed in, against our own black-box set where the suite has one (below `runs`: that of the preset that
    the board's rules name, which is built where there is none). `suite` picks the claims of one suite, `n` uses at most
    so many images. It is verified where the verdicts on the images agree with every claim (see Rules.differ), not
    reproduced where they do not or the weights are not those that the claims are of, and refused where it is no bundle
    within `limits`, cannot be checked on the data here, or is a model that is published in `root` under another name. A
    bad bundle raises nothing. What is raised is the machine's or its operator's: DataError for a data set that is not
    here or a broken board.json, RecordError for a damaged file of ours, BusyError for another process at work in the
    same place, OSError for a full disk and its like, and whatever was raised for want of memory.

    `root` holds the leaderboards that it is submitted to. Where its board has a board.json, the model is also evaluated
    by these rules, whatever is claimed: that is what ranks it. `memory` bounds, in bytes, what an attack may take of
    the processor's: batches are made smaller, and a model of which not one image fits is refused.

    `work`, a folder for this alone, keeps the unpacked bundle and our records: an interrupted verification of the same
    bundle goes on there. Nothing stays there of one that is refused.
    """
    work, limits = Path(work), limits or Limits()
    where = resolve_device(device)
    bench = Bench(
        runs=Path(runs),
        data_dir=data_dir,
        device=where,
        progress=progress,
        memory=memory if where.type == "cpu" else None,
    )
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
        board = None if root is None else Path(root) / claims[0].data_name / claims[0].threat.slug
        rules = Rules() if board is None else rules_on(board, images)
        bench = replace(bench, blackbox=rules.blackbox)
        result = replace(result, images=len(images.split(TEST)), operator=rules.operator)
        path = _checkpoint(bundle, work)
        model = checkpoint.load(path)
        if root is not None and (twin := audit.twin_of(model, bundle.name, images, Path(root), bench.device)):
            raise BundleError(f"it answers as {twin!r} does, which is published: a model is published once")
        repeated = [_repeat(claim, path, n, bench, images) for claim in claims]
        comparisons = tuple(_compare(claim, records, rules) for claim, records in zip(claims, repeated, strict=True))
        wrong = tuple(reason for comparison in comparisons for reason in comparison.reasons)
        if not wrong:
            result = replace(result, flags=audit.fit_of(model, images, bench.device).flags)
            if board is not None and rules_file(board) is not None:
                threat = ThreatModel(**claims[0].threat.as_dict())
                repeated.append(evaluated(path, asked_by(rules, images), threat, images, bench))
    except (BundleError, CheckpointError, InvalidValueError, AttackError) as error:
        if is_of_machine(error):
            raise
        clear(work, BUNDLE, MODELS)
        return replace(result, reasons=(_without_paths(str(error), work),))
    return replace(
        result,
        status=NOT_REPRODUCED if wrong else VERIFIED,
        reasons=wrong,
        # Two claims that `n` made one evaluation share its record, as a claim and the board's rules may.
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


def _repeat(claim: Claim, model: Path, n: int | None, bench: Bench, source: DataSource) -> list[Record]:
    """Our records of a claimed evaluation: of the model, and of the parts that the suite scores on their own."""
    asked = Asked(
        suite=claim.suite, n=min(claim.n, n or claim.n), seed=claim.seed, precision=claim.precision or PRECISION
    )
    return evaluated(model, asked, ThreatModel(**claim.threat.as_dict()), source, bench)


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
    first, available = claims[0], len(source.split(TEST))
    if (first.data_hash, first.data_name) != (source.fingerprint, source.name):
        raise BundleError(
            f"cannot be checked here: claimed on {first.data_name} ({first.data_hash}), here is {source.name} "
            f"({source.fingerprint})"
        )
    for claim in claims:
        if claim.n > available:
            raise BundleError(f"{claim}: the {TEST} split of {source.name} holds {available}")


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
    path = work / MODELS / f"{bundle.model}{checkpoint.SUFFIX}"
    write_atomic(path.with_suffix(".json"), (bundle.folder / "config.json").read_bytes())
    write_atomic(path, bundle.weights.read_bytes())
    return path


def _compare(claim: Claim, records: Sequence[Record], rules: Rules) -> Comparison:
    """Whether the record of the whole model agrees with the claim that it repeats, on as many images or the first."""
    record = next(record for record in records if record.view is None)
    found = agreement(claim, record)
    allowed = rules.allowed(found.compared)
    reasons = []
    if found.differing > allowed:
        reasons.append(
            f"{claim.suite}: of {found.compared} images {found.differing} have another verdict than was claimed, "
            f"at most {allowed} may; robust accuracy is {record.robust.accuracy:.4f} ({record.robust.robust} of "
            f"{record.n} images), claimed was {claim.robust.accuracy:.4f} on {claim.n}"
        )
    gap = abs(claim.robust.accuracy - record.robust.accuracy)
    if (claim.randomised or record.randomised) and claim.n == record.n and gap * record.n > allowed:
        reasons.append(
            f"{claim.suite}: expected robust accuracy is {record.robust.accuracy:.4f}, claimed was "
            f"{claim.robust.accuracy:.4f}: at most {allowed} of {record.n} images may make the difference"
        )
    return Comparison(claim=claim, record=record, agreement=found, allowed=allowed, reasons=tuple(reasons))


def _without_paths(message: str, work: Path) -> str:
    """An error's message for strangers, without the paths of our files."""
    for folder in (work, work.resolve()):
        message = message.replace(f"{folder}/", "")
    return re.sub(rf"{MODELS}/[^/ ]+/({'|'.join(CHECKPOINTS)})\.safetensors", "model.safetensors", message)
