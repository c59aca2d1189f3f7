"""Submit a model: unpack and check it once, then verify and publish it in a folder, or send it elsewhere."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ensemble_bench.errors import EnsembleBenchError
from ensemble_bench.progress import Progress, silent
from ensemble_bench.registry.terms import VERIFIED
from ensemble_bench.submissions import publishing, targets, verification
from ensemble_bench.submissions.bundling import is_bundle, make
from ensemble_bench.submissions.format.bundle import Bundle, unpack
from ensemble_bench.submissions.targets import Receipt
from ensemble_bench.submissions.verification import BUNDLE, Verification


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Where a model is published: the folder of a board, or an address."""

    place: str


Report = Callable[[Receipt | Verification | Publication], None]


def submit(
    source: str | Path,
    target: str,
    *,
    token: str | None = None,
    wait: bool = False,
    suite: str | None = None,
    n: int | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    work: str | Path | None = None,
    runs: str | Path = "runs",
    report: Report = lambda _: None,
    progress: Progress = silent,
) -> str:
    """Submit the bundle or the run at `source`, and return its status.

    `target` is a folder of leaderboards, where the model is verified with the options of verification.verify (`work`
    defaults to a folder that is removed) and then published; the http(s) address of an upload service, which takes
    `token` and whose verdict is awaited if `wait`; or hf://OWNER/NAME. The status is a verdict, one of
    registry.terms.STATUSES, that of a service which has not decided yet, or "uploaded" at the Hub, which verifies
    nothing. `report` is called with each answer of a service, with the verification, and with the publication.

    Raises BundleError for what is no bundle within the default limits, a name that other weights have in the folder,
    and a failed upload; otherwise as targets.upload, targets.push and verification.verify.
    """
    source = Path(source)
    online = targets.is_service(target)
    with tempfile.TemporaryDirectory() as scratch:
        if online or target.startswith(targets.HUB):
            bundle = receive(source, Path(scratch) / BUNDLE)
            return _upload(bundle, target, token, wait, report) if online else _push(bundle, target, report)
        work = Path(scratch if work is None else work)
        verification.prepare(work, source)
        try:
            bundle = receive(source, work / BUNDLE)
            # Before hours of attacks, not after.
            publishing.check_free(bundle.model, bundle.weights_hash, Path(target))
            result = verification.verify(
                bundle,
                suite=suite,
                n=n,
                data_dir=data_dir,
                device=device,
                work=work,
                runs=runs,
                root=target,
                progress=progress,
            )
        except EnsembleBenchError:
            verification.clear(work, BUNDLE)
            raise
        report(result)
        if result.status == VERIFIED:
            report(Publication(place=str(publishing.publish(result, bundle.folder, target))))
        return result.status


def receive(source: Path, folder: Path) -> Bundle:
    """The bundle at `source`, checked and unpacked in the new `folder`, or that of a run, made there.

    Raises BundleError, and CheckpointError for a run without a checkpoint.
    """
    return unpack(source, folder) if is_bundle(source) else make(source, folder)


def _upload(bundle: Bundle, url: str, token: str | None, wait: bool, report: Report) -> str:
    receipt = targets.upload(bundle, url, token=token)
    report(receipt)
    if wait:
        receipt = targets.wait(url, receipt, token=token, report=report)
    return receipt.status


def _push(bundle: Bundle, target: str, report: Report) -> str:
    report(Publication(place=targets.push(bundle, target)))
    return "uploaded"
