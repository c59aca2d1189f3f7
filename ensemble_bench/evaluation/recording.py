"""From scores to a record: counts, intervals, warnings and everything that says where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ensemble_bench import attacks
from ensemble_bench.attacks.transfer import Transfer
from ensemble_bench.data import DataSource
from ensemble_bench.evaluation.masking import warnings_of
from ensemble_bench.evaluation.scoring import Job, Scores
from ensemble_bench.evaluation.statistics import wilson
from ensemble_bench.models import checkpoint, cost
from ensemble_bench.records import AttackResult, Blackbox, CleanScore, Record, RobustScore, Surrogate, Threat
from ensemble_bench.training.provenance import commit, versions


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model to score, and what is known about it; `model` is None until it has to be loaded."""

    name: str
    weights_hash: str
    model: nn.Module | None = None
    info: checkpoint.CheckpointInfo | None = None

    def meta(self, key: str) -> Any:
        """What training wrote about itself under `key`, None for a model from elsewhere."""
        return None if self.info is None else self.info.meta.get(key)

    def load(self) -> nn.Module:
        """Return the model, reading its checkpoint if it came from one."""
        if self.model is not None:
            return self.model
        assert self.info is not None
        return checkpoint.load(self.info.path)


def make_record(
    subject: Subject, source: DataSource, suite: str, job: Job, scores: Scores, *, key: str, seconds: float
) -> Record:
    """Record of the `scores` that `job` got with the attacks of `suite`; nothing is rounded."""
    samples = scores.samples
    results = tuple(_attack_result(a, scores, cascade=job.cascade) for a in job.attacks)
    n, correct = len(samples), int(samples["clean"].sum())
    robust = correct - sum(r.credit for r in results)
    clean_low, clean_high = wilson(correct, n)
    low, high = wilson(robust, n)
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
        parameters=cost.parameters(job.model),
        flops=cost.flops(job.model, source.image_shape),
        forward_passes=len(getattr(job.model, "members", [job.model])),
        dataset=source.dataset,
        data_name=source.name,
        data_hash=source.fingerprint,
        split=job.images.split,
        n=n,
        threat=Threat(norm=job.threat.norm, eps=job.threat.eps),
        suite=suite,
        seed=job.seed,
        clean=CleanScore(correct=correct, n=n, accuracy=correct / n, ci_low=clean_low, ci_high=clean_high),
        robust=RobustScore(robust=robust, n=n, accuracy=robust / n, ci_low=low, ci_high=high),
        attacks=results,
        blackbox=next((_blackbox(a, results) for a in job.attacks if isinstance(a, Transfer)), None),
        warnings=warnings_of(scores, results),
        seconds=seconds,
        device=_device_name(job.device),
        versions=versions(),
        commit=commit(),
    )


def _attack_result(attack: attacks.Attack, scores: Scores, *, cascade: bool) -> AttackResult:
    column = scores.samples[attack.name]
    n, robust = int(column.notna().sum()), int(column.fillna(False).sum())
    low, high = wilson(robust, n) if n else (None, None)
    return AttackResult(
        name=attack.name,
        settings=attack.settings(),
        n=n,
        robust=robust,
        accuracy=robust / n if n else None,
        ci_low=low,
        ci_high=high,
        credit=int((scores.samples["broken_by"] == attack.name).sum()),
        seconds=scores.seconds[attack.name],
        curve=None if cascade else _curve(attack, scores.samples),
    )


def _curve(attack: attacks.Attack, samples: pd.DataFrame) -> tuple[float, ...] | None:
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


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
