"""The benchmark runner: score a model with a suite of attacks and keep a record that others can check."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ensemble_bench.attacks import Attack
from ensemble_bench.data import open_source
from ensemble_bench.data.given import given_source
from ensemble_bench.errors import InvalidValueError, check_kind
from ensemble_bench.evaluation import images as adversarial
from ensemble_bench.evaluation import subject as subjects
from ensemble_bench.evaluation.job import Bools, Carried
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.make_record import device_name, make_record
from ensemble_bench.evaluation.plan import EvaluationPlan, chosen_suite
from ensemble_bench.evaluation.preparation import check_gradients, entered, job_of
from ensemble_bench.evaluation.request import Request, budget_on, images_of, plans_of
from ensemble_bench.evaluation.scoring import score
from ensemble_bench.evaluation.trust.probe import probe
from ensemble_bench.evaluation.trust.recapture import recapture
from ensemble_bench.files import clear_leftovers, sha256_bytes, write_atomic
from ensemble_bench.kinds import takes
from ensemble_bench.locks import LOCK, held
from ensemble_bench.models.called import as_module
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import (
    ADVERSARIAL_PREDICTION,
    RECORD_FILE,
    SAMPLES_FILE,
    NamedWarning,
    Record,
    read_record,
    read_samples,
    samples_to_parquet,
    worst_case,
    write_record,
)
from ensemble_bench.registry import Suite
from ensemble_bench.registry.terms import TEST
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import computing_on, resolve_device
from ensemble_bench.training.provenance import changed, versions

JOURNAL = "journal.jsonl"
WHAT = "evaluation of this model with this suite"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The result of an evaluation: its record, and a row an image with a bool column an attack (robust to it)."""

    record: Record
    samples: pd.DataFrame

    @property
    def clean_accuracy(self) -> float:
        """Fraction of images classified correctly without an attack; expected, of a model that answers at random."""
        return self.record.clean.accuracy

    @property
    def robust_accuracy(self) -> float:
        """Fraction of images that are classified correctly and that no attack broke: the per-image worst case.

        Of a model that answers at random, the expected accuracy over its draws.
        """
        return self.record.robust.accuracy

    @property
    def per_attack(self) -> dict[str, float | None]:
        """Accuracy under each attack, in the order they ran; None where an attack covered no image."""
        return {a.name: a.accuracy for a in self.record.attacks}

    @property
    def threat(self) -> ThreatModel:
        """Threat model of the attacks."""
        return ThreatModel(**self.record.threat.as_dict())

    @property
    def warnings(self) -> tuple[NamedWarning, ...]:
        """Signs that the numbers are too good."""
        return self.record.warnings


@takes
@torch.inference_mode(False)
def evaluate(
    model: nn.Module | Callable[..., Any],
    *,
    dataset: str | None = None,
    data: Any = None,
    suite: str | Suite | Attack = "paper",
    n: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    threat: ThreatModel | None = None,
    split: str = "test",
    data_dir: str | Path | None = None,
    blackbox: str | Path | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    compile: bool | None = None,
    save_images: str | Path | None = None,
    name: str | None = None,
    progress: Progress = silent,
) -> Result:
    """Score `model`, any module or function that maps images in [0, 1] to logits, with a suite on the first `n` images.

    The images are those of a `dataset` by name (default: digits), or `data`: a DataSource, or (x, y), images in [0, 1]
    or of uint8 and labels, arrays or tensors, which `dataset` may give a name in records. `suite` is a name, a `Suite`
    or an `Attack`.

    `threat` defaults to the data set's (linf, 8/255 for CIFAR-10). `blackbox` is the set for suites that hold that
    attack; by default runs/blackbox is searched for one, and one is built where there is none. `precision` is that of
    the search: "float32", "bf16" or "auto", which is bf16 where the device computes in it natively; verdicts are in
    float32. `compile` compiles what proposes, by default on CUDA alone. With `out` the record
    and samples.parquet are written there, and an evaluation that was killed goes on where it stopped. `device`
    defaults to the model's own. `save_images` is a .safetensors file for the adversarial images in float32, or a folder
    for PNG files of them rounded to 8 bits. `name` is what the record calls the model (default: the run that it was
    loaded from, else "model"). Raises EnsembleBenchError for bad values, an attack that breaks the rules,
    or a model whose logits are not finite.
    """
    chosen, objects = chosen_suite(suite)
    if isinstance(model, str | Path):
        told = f"model is a {type(model).__name__}, {str(model)!r}: expected a torch.nn.Module"
        raise InvalidValueError(f"{told}; eb.load makes one of a name")
    if isinstance(model, list | tuple):
        told = "eb.Ensemble joins several, and a loop scores one after the other"
        raise InvalidValueError(f"model is a {type(model).__name__}: expected one torch.nn.Module; {told}")
    model = as_module(model)
    if threat is not None:
        check_kind("threat", threat, ThreatModel)
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    source = open_source(dataset or "digits", data_dir) if data is None else given_source(data, dataset, pair=TEST)
    images = images_of(source, split, n)
    plan = EvaluationPlan(
        subject=subjects.in_memory(model, images, name),
        source=source,
        images=images,
        threat=threat or ThreatModel(eps=source.default_eps),
        suite=chosen,
        budget=budget_on(
            own if device is None else resolve_device(device),
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            compile=compile,
        ),
        blackbox=None if blackbox is None else Path(blackbox),
        data_dir=data_dir,
        save_images=adversarial.place_of(save_images, "model"),
        objects=objects,
        progress=progress,
    )
    return _run(plan, None if out is None else Path(out))


@takes
def evaluate_checkpoints(
    models: Sequence[str | Path] | None = None,
    *,
    runs: str | Path = "runs",
    suite: str = "paper",
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    split: str = "test",
    norm: str | None = None,
    eps: float | Sequence[float] | None = None,
    arch: str | None = None,
    normalise: str | None = None,
    model_dir: str | Path = "models",
    batch_size: int | None = None,
    blackbox: str | Path | None = None,
    device: str | torch.device | None = None,
    threads: int | None = None,
    precision: str = "auto",
    compile: bool | None = None,
    save_images: str | Path | None = None,
    progress: Progress = silent,
) -> list[Record]:
    """Score models (default: every checkpoint below `runs`, one of those of a run that are equal); returns records.

    `models` are what `load` takes, with its `arch`, `normalise` and `model_dir`. Data set and threat model default to
    those of the training, the threat model of a model that does not say to the data set's own. Several `eps` are a
    record each, from the smallest: what fell at one is not attacked at the next. Records lie in evaluations/ beside the
    checkpoint, those of a model from elsewhere in a folder below `runs`; one that is there already is not made again,
    and one that was interrupted goes on, with as many `threads` as it began with unless told otherwise. `precision`,
    `compile` and `save_images` are as in `evaluate`; for several models "{model}" in the last stands for their names,
    and a record without images is made again. Raises as `evaluate` and `load`, and CheckpointError when there is
    nothing to score.
    """
    sizes = () if eps is None else tuple(eps) if isinstance(eps, Sequence) else (eps,)
    for size in sizes:
        ThreatModel(eps=size, norm="l2")  # whatever the norm will be: it refuses what is no number
    request = Request(
        models=None if models is None else tuple(models),
        runs=runs,
        suite=suite,
        dataset=dataset,
        data_dir=data_dir,
        n=n,
        seed=seed,
        split=split,
        norm=norm,
        eps=sizes or None,
        arch=arch,
        normalise=normalise,
        model_dir=model_dir,
        batch_size=batch_size,
        blackbox=blackbox,
        device=device,
        threads=threads,
        precision=precision,
        save_images=save_images,
        compile=compile,
    )
    return evaluate_request(request, progress)


@torch.inference_mode(False)
def evaluate_request(request: Request, progress: Progress = silent) -> list[Record]:
    """As `evaluate_checkpoints`, of arguments that are together already."""
    return [record for plan in plans_of(request, progress) for record in _run_sizes(plan, request.sizes)]


@torch.inference_mode(False)
def evaluate_block(request: Request, block: int, *, progress: Progress = silent) -> None:
    """Attack one block of images, counted from 0, and keep that in the journals of the evaluations.

    Blocks hold `job.BLOCK` images. `evaluate_checkpoints` takes over what was found, in whatever process and order,
    and makes the same records as without; it runs itself what is still missing. Raises as `evaluate_checkpoints`, and
    InvalidValueError for a block that the evaluation does not have.
    """
    for plan in plans_of(request, progress):
        threats = [replace(plan.threat, eps=eps) for eps in request.sizes] or [plan.threat]
        for threat in threats:
            plan = entered(replace(plan, threat=threat))
            made = plan.attacks()
            key = plan.key(made)
            fallen = _fallen_in_block(plan, made, key, block)
            if not plan.subject.is_randomised:
                plan = replace(plan, carried=Carried(eps=threat.eps, record=key, fallen=fallen))


def _fallen_in_block(plan: EvaluationPlan, made: Sequence[Attack], key: str, block: int) -> Bools:
    """Which images of a block fell, scored here unless the record stands; those of other blocks count as standing."""
    out, job = plan.folder(key), job_of(plan, made)
    if not 0 <= block < len(job.blocks):
        raise InvalidValueError(f"block is {block}: the evaluation has {len(job.blocks)}, counted from 0")
    rows = job.blocks[block]
    if out is not None and _finished(plan, out, key) is not None:
        samples = read_samples(out).iloc[rows]
    else:
        carried = job.carried and replace(job.carried, fallen=job.carried.fallen[rows], predictions=None)
        # Others may score other blocks meanwhile, but nobody the whole.
        with contextlib.ExitStack() as locks:
            if out is not None:
                locks.enter_context(held(out, WHAT, shared=True))
                locks.enter_context(held(out, f"evaluation of block {block}", name=f"{LOCK}-{block}"))
            journal = _journal(plan, key, out, only=block)
            with computing_on(plan.threads or journal.threads):
                samples = score(replace(job, images=job.images.part(rows), carried=carried), journal).samples
    fallen = np.zeros(len(job.images), dtype=bool)
    fallen[rows] = _fallen(samples)
    return fallen


def _run_sizes(plan: EvaluationPlan, sizes: Sequence[float]) -> list[Record]:
    """A record for every eps, in ascending order; images that fell at a smaller one are carried over as fallen."""
    records: list[Record] = []
    threats = [replace(plan.threat, eps=eps) for eps in sizes] or [plan.threat]
    for threat in threats:
        result = _run(replace(plan, threat=threat), None)
        records.append(result.record)
        fallen, samples = _fallen(result.samples), result.samples
        known = samples[ADVERSARIAL_PREDICTION].fillna(-1).to_numpy() if ADVERSARIAL_PREDICTION in samples else None
        carried = Carried(eps=threat.eps, record=result.record.id, fallen=fallen, predictions=known)
        # The images of a model that answers at random are never done with.
        plan = plan if result.record.randomised else replace(plan, carried=carried)
    return records


def _finished(plan: EvaluationPlan, out: Path, key: str) -> Record | None:
    """The record in `out`, if it is of this evaluation and the images, where any are wanted, lie there too."""
    if not (out / RECORD_FILE).exists() or (known := read_record(out)).id != key:
        return None
    if plan.save_images is None or adversarial.are_there(plan.save_images, known):
        return known
    return None


def _fallen(samples: pd.DataFrame) -> Bools:
    """Images that are classified correctly and that some attack broke."""
    return samples["clean"].to_numpy(dtype=bool) & ~worst_case(samples)


def _run(plan: EvaluationPlan, out: Path | None) -> Result:
    """Evaluate, or read a finished evaluation, in `out` or beside the checkpoint of a trained model."""
    if plan.subject.info is None:  # whether it answers at random is part of the evaluation's id
        plan = entered(plan)
    images, given = plan.save_images, out
    if images is not None:  # before a black-box set is made
        adversarial.check_target(images, None, channels=plan.source.image_shape[0])
    made = plan.attacks()
    key = plan.key(made)
    out = plan.folder(key) if out is None else out
    if out is not None and (known := _finished(plan, out, key)) is not None:
        return Result(record=known, samples=read_samples(out))
    if plan.subject.entered is None:
        return _run(entered(plan), given)
    check_gradients(plan, made)
    if images is not None:
        adversarial.check_target(images, key, channels=plan.source.image_shape[0])
        if out is not None and (out / RECORD_FILE).exists():
            told = "there is a record, but not these images: it is made again"
            plan.progress(f"{plan.subject.name} images", 1, 1, status=told)
    if out is None:
        return _scored(plan, made, key, None)
    with held(out, WHAT):
        clear_leftovers(out)
        if (known := _finished(plan, out, key)) is not None:  # by another process, meanwhile
            return Result(record=known, samples=read_samples(out))
        return _scored(plan, made, key, out)


def _scored(plan: EvaluationPlan, made: Sequence[Attack], key: str, out: Path | None) -> Result:
    """Evaluate, and write what was found into `out`."""
    job, images = job_of(plan, made), plan.save_images
    journal = _journal(plan, key, out)
    start = time.perf_counter()
    with computing_on(plan.threads or journal.threads):
        scores = score(job, journal)
        probed = probe(job, scores, journal) if plan.suite.probe else None
        recaptured = recapture(job, scores, journal, members=plan.suite.ensembles) if plan.suite.recapture else None
        record = make_record(
            plan.subject,
            plan.source,
            plan.suite.name,
            job,
            scores,
            probed,
            recaptured,
            key=key,
            seconds=time.perf_counter() - start,
            others=[changed(under, _conditions(plan)) for under in journal.other_versions()],
        )
        if images is not None:
            record = replace(record, images=adversarial.save(images, job, scores, journal, record))
    rows = samples_to_parquet(scores.samples)
    record = replace(record, samples_hash=sha256_bytes(rows))
    if out is not None:
        (out / RECORD_FILE).unlink(missing_ok=True)  # one without its images, whose hash need not be that of these rows
        write_atomic(out / SAMPLES_FILE, rows)
        record = replace(record, path=write_record(record, out))
        journal.remove()
    return Result(record=record, samples=scores.samples)


def _journal(plan: EvaluationPlan, key: str, out: Path | None, *, only: int | None = None) -> Journal:
    """The journal in `out`; says so where it was begun under other versions or on another kind of processor."""
    journal = Journal(
        None if out is None else out / JOURNAL,
        key,
        threads=torch.get_num_threads(),
        only=only,
        images=plan.save_images is not None,
        versions=_conditions(plan),
    )
    for under in journal.other_versions():
        told = f"goes on with what was scored under {changed(under, _conditions(plan))}, which the record will say"
        plan.progress(f"{plan.subject.name} versions", 1, 1, status=told)
    return journal


def _conditions(plan: EvaluationPlan) -> dict[str, str]:
    """What numbers may depend on in their last bits: versions, and what computes."""
    return versions() | {"device": device_name(plan.budget.device)}
