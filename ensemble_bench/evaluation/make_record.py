"""From scores to a record: counts, intervals, warnings, and the model, data, versions and commit behind them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ensemble_bench.attacks import Attack
from ensemble_bench.attacks.blackbox.transfer import Transfer
from ensemble_bench.data import DataSource
from ensemble_bench.evaluation.scoring import Carried, Job, Scores
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
from ensemble_bench.records.statistics import wilson
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
    expected = None if job.drawn is None or scores.shares is None else scores.shares.expected(exact=job.drawn.exact)
    notes = () if subject.entered is None else subject.entered.notes
    tried: list[Attack | Carried] = [job.carried] if job.carried else []
    tried += job.attacks
    results = tuple(_attack_result(a, scores, cascade=job.cascade, one_in=job.one_in.get(a.name, 1)) for a in tried)
    n, correct = len(samples), int(samples["clean"].sum())
    robust = correct - sum(r.credit for r in results)
    clean_low, clean_high = wilson(correct, n)
    low, high = wilson(robust, n)
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
        dataset=source.dataset,
        data_name=source.name,
        data_hash=source.fingerprint,
        split=job.images.split,
        n=n,
        threat=Threat(norm=job.threat.norm, eps=job.threat.eps),
        suite=suite,
        seed=job.budget.seed,
        clean=CleanScore(correct=correct, n=n, accuracy=correct / n, ci_low=clean_low, ci_high=clean_high),
        robust=RobustScore(robust=robust, n=n, accuracy=robust / n, ci_low=low, ci_high=high),
        attacks=results,
        blackbox=blackbox,
        warnings=entry_warnings(notes, expected, n)
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
        randomised=expected,
        recapture=recapture,
    )


def _attack_result(attack: Attack | Carried, scores: Scores, *, cascade: bool, one_in: int) -> AttackResult:
    stages = scores.stages[attack.name]
    n, robust, credit = counts_of(scores.samples, attack.name)
    low, high = wilson(robust, n) if n else (None, None)
    return AttackResult(
        name=attack.name,
        settings={**attack.settings(), "one_in": one_in} if one_in > 1 else attack.settings(),
        n=n,
        robust=robust,
        accuracy=robust / n if n else None,
        ci_low=low,
        ci_high=high,
        credit=credit,
        seconds=sum(stage.seconds for stage in stages),
        curve=None if cascade else _curve(attack, scores.samples),
        passes=sum(stage.passes for stage in stages),
        stages=_stage_results(stages) if len(stages) > 1 or one_in > 1 else None,
    )


def _stage_results(stages: Sequence[StageScore]) -> tuple[StageResult, ...]:
    return tuple(
        StageResult(name=s.name, attacked=s.attacked, broken=s.broken, seconds=s.seconds, passes=s.passes)
        for s in stages
    )


def _curve(attack: Attack | Carried, samples: pd.DataFrame) -> tuple[float, ...] | None:
    """Accuracy after 0, 1, … iterations: an image is lost at its first misclassified iterate."""
    steps = getattr(attack, "steps", None)
    if steps is None:
        return None
    lost = samples.loc[~samples[attack.name].astype(bool), f"{attack.name}_steps"]
    count = np.bincount(lost, minlength=steps + 1).cumsum()
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
