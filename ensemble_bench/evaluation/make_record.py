"""From scores to a record: counts, intervals, warnings, and the model, data, versions and commit behind them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ensemble_bench import registry
from ensemble_bench.attacks import Attack
from ensemble_bench.attacks.blackbox.transfer import Transfer
from ensemble_bench.data import DataSource
from ensemble_bench.evaluation.job import Carried, Job
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.evaluation.stage import StageScore
from ensemble_bench.evaluation.subject import Subject
from ensemble_bench.evaluation.trust.masking import entry_warnings, version_warnings, warnings_of
from ensemble_bench.evaluation.trust.probe import Probe
from ensemble_bench.models import cost
from ensemble_bench.models.ensemble import as_ensemble
from ensemble_bench.models.folded import Twin
from ensemble_bench.records import (
    AttackResult,
    Blackbox,
    CleanScore,
    Record,
    RobustScore,
    Search,
    StageResult,
    Surrogate,
    Threat,
    counts_of,
    training_of,
)
from ensemble_bench.records.recapture import Recapture
from ensemble_bench.records.statistics import wilson_around
from ensemble_bench.training.provenance import commit, versions


def make_record(
    subject: Subject,
    source: DataSource,
    suite: str,
    job: Job,
    scores: Scores,
    probe: Probe | None,
    recapture: Recapture | None,
    *,
    key: str,
    seconds: float,
    others: Sequence[str] = (),
) -> Record:
    """Record of the `scores`, `probe` and `recapture` that a `job` with the attacks of `suite` got, unrounded.

    `others` are versions and devices that a part was scored under, in words.
    """
    samples = scores.samples
    model = job.model if job.drawn is None else job.drawn.model
    notes = () if subject.entered is None else subject.entered.notes
    tried: list[Attack | Carried] = [job.carried] if job.carried else []
    tried += job.attacks
    results = tuple(_attack_result(a, scores, cascade=job.cascade, one_in=job.one_in.get(a.name, 1)) for a in tried)
    n, correct = len(samples), int(samples["clean"].sum())
    robust = correct - sum(r.credit for r in results)
    drawn, shares = None if job.drawn is None else job.drawn.how, scores.shares
    clean_score = _score(correct, n, None if shares is None else shares.clean)
    score = _score(robust, n, None if shares is None else shares.reported)
    blackbox = next((_blackbox(a, results) for a in job.attacks if isinstance(a, Transfer)), None)
    return Record(
        id=key,
        model=subject.name,
        weights_hash=subject.weights_hash,
        recipe=subject.meta("recipe"),
        preset=subject.meta("preset"),
        seeds=tuple(subject.meta("seeds") or ()),
        checkpoint=subject.meta("checkpoint"),
        step=subject.meta("step"),
        architecture=None if subject.info is None else subject.info.architecture.as_dict(),
        parameters=cost.parameters(model),
        flops=cost.flops(model, source.image_shape),
        forward_passes=len(as_ensemble(model).members),
        dataset=registry.told(source.dataset),
        data_name=source.name,
        data_hash=source.fingerprint,
        split=job.images.split,
        n=n,
        threat=Threat(norm=job.threat.norm, eps=job.threat.eps),
        suite=suite,
        seed=job.budget.seed,
        clean=CleanScore(correct=correct, n=n, **clean_score),
        robust=RobustScore(robust=robust, n=n, **score),
        attacks=results,
        blackbox=blackbox,
        warnings=entry_warnings(notes, drawn, n, clean_score["accuracy"], score)
        + version_warnings(others)
        + warnings_of(
            scores,
            results,
            cascade=job.cascade,
            probe=probe,
            blackbox=blackbox,
            overfitted=subject.meta("overfitted"),
        ),
        seconds=seconds,
        device=device_name(job.budget.device),
        versions=versions(),
        commit=commit(),
        view=subject.view,
        cascade=job.cascade,
        training=None if subject.info is None else training_of(subject.info.meta),
        search=_search(job),
        randomised=drawn,
        recapture=recapture,
    )


def _score(count: int, n: int, shares: NDArray[Any] | None) -> dict[str, float]:
    """Accuracy and interval of so many right images, or of the shares of draws that are right on every image."""
    accuracy = count / n if shares is None else float(shares.mean())
    low, high = wilson_around(accuracy, n)
    return {"accuracy": accuracy, "ci_low": low, "ci_high": high}


def _attack_result(attack: Attack | Carried, scores: Scores, *, cascade: bool, one_in: int) -> AttackResult:
    column, stages = scores.samples[attack.name], scores.stages[attack.name]
    n, robust, credit = counts_of(scores.samples, attack.name)
    shares = scores.expected.get(attack.name)
    covered = None if shares is None else shares[column.notna().to_numpy()]
    return AttackResult(
        name=attack.name,
        settings={**attack.settings(), "one_in": one_in} if one_in > 1 else attack.settings(),
        n=n,
        robust=robust,
        **(_score(robust, n, covered) if n else dict.fromkeys(("accuracy", "ci_low", "ci_high"))),
        credit=credit,
        seconds=sum(stage.seconds for stage in stages),
        # Steps until another class has more draws say nothing of the right ones that are left.
        curve=None if cascade or shares is not None else _curve(attack, scores.samples),
        passes=sum(stage.passes for stage in stages),
        stages=_stage_results(stages) if len(stages) > 1 or one_in > 1 else None,
    )


def _stage_results(stages: Sequence[StageScore]) -> tuple[StageResult, ...]:
    return tuple(
        StageResult(name=s.name, attacked=s.attacked, broken=s.broken, seconds=s.seconds, passes=s.passes)
        for s in stages
    )


def _curve(attack: Attack | Carried, samples: pd.DataFrame) -> tuple[float, ...] | None:
    """Accuracy after 0, 1, … iterations, restarts one after the other: an image is lost at its first misclassified one.

    None for an attack that does not say which that is.
    """
    steps = getattr(attack, "steps", None)
    if steps is None or not getattr(attack, "stop_early", True):
        return None
    lost = samples.loc[~samples[attack.name].astype(bool), f"{attack.name}_steps"]
    count = np.bincount(lost, minlength=steps * getattr(attack, "restarts", 1) + 1).cumsum()
    return tuple((1 - count / len(samples)).tolist())


def _blackbox(attack: Transfer, results: Sequence[AttackResult]) -> Blackbox:
    info = attack.candidates.info
    return Blackbox(
        hash=info["hash"],
        keep_rate=info["keep_rate"],
        surrogates=tuple(Surrogate(backbone=s["backbone"], accuracy=s["accuracy"]) for s in info["surrogates"]),
        n=next(r.n for r in results if r.name == attack.name),
    )


def _search(job: Job) -> Search:
    twin = job.twin or Twin(model=job.model)
    return Search(precision=job.budget.precision, folded=twin.folded, compiled=twin.compiled, note=twin.note)


def device_name(device: torch.device) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
