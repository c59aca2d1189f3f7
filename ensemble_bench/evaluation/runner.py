"""The benchmark runner: score a model with a suite of attacks and keep a record that others can check."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ensemble_bench import attacks, data, registry
from ensemble_bench.attacks import engine
from ensemble_bench.attacks.blackbox_set import read_blackbox_info
from ensemble_bench.attacks.suites import SUITES
from ensemble_bench.data import DataSource, ImageSet
from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.evaluation import blackbox as blackbox_sets
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.recording import Subject, make_record
from ensemble_bench.evaluation.scoring import Job, score
from ensemble_bench.files import write_atomic
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import (
    RECORD_FILE,
    SAMPLES_FILE,
    NamedWarning,
    Record,
    identify,
    read_record,
    read_samples,
    samples_to_parquet,
    write_record,
)
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import resolve_device

BLACKBOX = "blackbox"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What an evaluation found: the record, and a row an image with a bool column an attack (robust to it)."""

    record: Record
    samples: pd.DataFrame

    @property
    def clean_accuracy(self) -> float:
        """Fraction of images classified correctly without an attack."""
        return self.record.clean.accuracy

    @property
    def robust_accuracy(self) -> float:
        """Fraction of images that are classified correctly and that no attack broke: the per-image worst case."""
        return self.record.robust.accuracy

    @property
    def per_attack(self) -> dict[str, float | None]:
        """Accuracy under each attack, in the order they ran; None where an attack covered no image."""
        return {a.name: a.accuracy for a in self.record.attacks}

    @property
    def threat(self) -> ThreatModel:
        """Threat model of the attacks."""
        return ThreatModel(norm=self.record.threat.norm, eps=self.record.threat.eps)

    @property
    def warnings(self) -> tuple[NamedWarning, ...]:
        """Signs that the numbers are too good."""
        return self.record.warnings


def evaluate(
    model: nn.Module,
    *,
    dataset: str = "digits",
    suite: str = "paper",
    n: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    threat: ThreatModel | None = None,
    split: str = "test",
    data_dir: str | Path | None = None,
    blackbox: str | Path | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    progress: Progress = silent,
) -> Result:
    """Score `model`, any module that maps images in [0, 1] to logits, with a suite on the first `n` images.

    `threat` defaults to the data set's (linf, 8/255 for CIFAR-10). `blackbox` is the set for suites that hold that
    attack; by default runs/blackbox is searched for one, and one is built where there is none. With `out` the record
    and samples.parquet are written there, and an evaluation that was killed goes on where it stopped. `device`
    defaults to the model's own. Raises EnsembleBenchError for bad values, an attack that breaks the rules, or a
    model whose logits are not finite.
    """
    registry.check("suite", suite)
    if not isinstance(model, nn.Module):
        raise InvalidValueError(f"model is a {type(model).__name__}: expected torch.nn.Module")
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    source = data.open_source(dataset, data_dir)
    images = _images(source, split, n)
    plan = _Plan(
        subject=_subject_in_memory(model, images, own),
        source=source,
        images=images,
        threat=threat or ThreatModel(eps=source.default_eps),
        suite=suite,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        device=own if device is None else resolve_device(device),
        blackbox=None if blackbox is None else Path(blackbox),
        data_dir=data_dir,
        progress=progress,
    )
    return _run(plan, None if out is None else Path(out))


def evaluate_checkpoints(
    paths: Sequence[str | Path] | None = None,
    *,
    runs: str | Path = "runs",
    suite: str = "paper",
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    split: str = "test",
    norm: str | None = None,
    eps: float | None = None,
    batch_size: int | None = None,
    blackbox: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    progress: Progress = silent,
) -> list[Record]:
    """Score checkpoints (default: every best and last one below `runs`); returns their records.

    A path is a run folder (its best checkpoint) or a .safetensors file. Data set and threat model default to those of
    the training. Records lie in evaluations/ beside the checkpoint; one that is there already is not made again, and
    one that was interrupted goes on. Raises as `evaluate`, and CheckpointError when there is nothing to score.
    """
    registry.check("suite", suite)
    runs = Path(runs)
    infos = [checkpoint.read_info(p) for p in (_find(runs) if paths is None else paths)]
    sources: dict[str, DataSource] = {}
    records = []
    for info in infos:
        name = dataset or info.meta.get("dataset")
        if name is None:
            raise CheckpointError(f"{info.path}: does not say what it was trained on: pass --dataset")
        if name not in sources:
            sources[name] = data.open_source(name, data_dir)
        source = sources[name]
        if tuple(source.image_shape) != tuple(info.architecture.image_shape):
            shape = info.architecture.image_shape
            raise InvalidValueError(
                f"{info.path}: takes images of shape {shape}, {source.name} has {source.image_shape}"
            )
        plan = _Plan(
            subject=Subject(name=_name(info.path), weights_hash=info.weights_hash, info=info),
            source=source,
            images=_images(source, split, n),
            threat=_threat(info, source, norm, eps),
            suite=suite,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            device=resolve_device(device),
            blackbox=None if blackbox is None else Path(blackbox),
            blackbox_root=runs / BLACKBOX,
            data_dir=data_dir,
            progress=progress,
        )
        records.append(_run(plan, None).record)
    return records


def _threat(info: checkpoint.CheckpointInfo, source: DataSource, norm: str | None, eps: float | None) -> ThreatModel:
    """Threat model as told, else as in training; an eps of one norm is none of another."""
    trained = {"norm": "linf", "eps": source.default_eps, **(info.meta.get("threat") or {})}
    threat = ThreatModel(norm=norm or trained["norm"], eps=trained["eps"] if eps is None else eps)
    if eps is None and threat.norm != trained["norm"]:
        raise InvalidValueError(f"norm is {norm!r}: {info.path} was trained for {trained['norm']}, so give eps")
    return threat


def _find(runs: Path) -> list[Path]:
    """Every best and last checkpoint below `runs`; black-box surrogates are none."""
    found = [p for name in ("best", "last") for p in runs.rglob(f"{name}.safetensors")]
    found = [p for p in found if (p.parent / "run.json").exists()]
    if not found:
        raise CheckpointError(f"{runs}: no checkpoints to score: `ensemble-bench train RECIPE` makes them")
    return sorted(found)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One evaluation, everything resolved but the black-box set."""

    subject: Subject
    source: DataSource
    images: ImageSet
    threat: ThreatModel
    suite: str
    seed: int
    batch_size: int | None
    precision: str
    device: torch.device
    blackbox: Path | None
    blackbox_root: Path = Path("runs") / BLACKBOX
    data_dir: str | Path | None
    progress: Progress

    def __post_init__(self) -> None:
        # Before a black-box set is built, which can take minutes.
        engine.validate_settings(1 if self.batch_size is None else self.batch_size, self.precision)

    def attacks(self) -> tuple[attacks.Attack, ...]:
        """Attacks of the suite, the black-box one with its set."""
        return tuple(
            attacks.get(name, path=self._blackbox_set()) if name == BLACKBOX else attacks.get(name)
            for name in SUITES[self.suite].attacks
        )

    def _blackbox_set(self) -> Path:
        """The set to use: the given one, else the one of the model's preset, built where there is none."""
        preset = self.subject.meta("preset") or "tiny"
        default = blackbox_sets.default_out(self.source.name, preset, self.threat, root=self.blackbox_root)
        path = self.blackbox or default.with_name(f"{default.name}.safetensors")
        if not path.exists() and self.blackbox is None:
            if self.images.split != "test":
                raise InvalidValueError(
                    f"split is {self.images.split!r}: black-box sets are of the test split, choose another suite"
                )
            path = blackbox_sets.build(
                self.source.dataset,
                preset=preset,
                data_dir=self.data_dir,
                out=path,
                eps=self.threat.eps,
                norm=self.threat.norm,
                device=self.device,
                progress=self.progress,
            )
        wanted = {
            "data_hash": self.source.fingerprint,
            "split": self.images.split,
            "threat": self.threat.as_dict(),
        }
        info = read_blackbox_info(path)
        for key, value in wanted.items():
            if info.get(key) != value:
                raise InvalidValueError(
                    f"{path}: its {key} is {info.get(key)!r}, the evaluation's {value!r}: choose another --suite or set"
                )
        return path


def _run(plan: _Plan, out: Path | None) -> Result:
    """Evaluate, or read what was evaluated before; in `out`, or beside the checkpoint of a trained model."""
    made = plan.attacks()
    identity = _identity(plan, made)
    key = identify(identity)
    if out is None and plan.subject.model is None and plan.subject.info is not None:
        path = plan.subject.info.path
        name = f"{plan.suite}-{path.stem}-n{len(plan.images)}-{plan.threat.slug}-{key[:8]}"
        out = path.parent / "evaluations" / name
    if out is not None and (out / RECORD_FILE).exists() and (known := read_record(out)).id == key:
        return Result(record=known, samples=read_samples(out))
    job = Job(
        label=plan.subject.name,
        model=plan.subject.load().to(plan.device),
        images=plan.images,
        threat=plan.threat,
        attacks=made,
        cascade=SUITES[plan.suite].cascade,
        seed=plan.seed,
        batch_size=plan.batch_size or (512 if plan.device.type == "cuda" else 128),
        precision=plan.precision,
        device=plan.device,
        progress=plan.progress,
    )
    journal = Journal(None if out is None else out / "journal.jsonl", key)
    start = time.perf_counter()
    scores = score(job, journal)
    seconds = time.perf_counter() - start
    record = make_record(plan.subject, plan.source, plan.suite, job, scores, key=key, seconds=seconds)
    if out is not None:
        write_atomic(out / SAMPLES_FILE, samples_to_parquet(scores.samples))
        record = replace(record, path=write_record(record, out))
        journal.remove()
    return Result(record=record, samples=scores.samples)


def _identity(plan: _Plan, made: Sequence[attacks.Attack]) -> dict[str, Any]:
    """What decides the outcome of an evaluation, and so names it."""
    return {
        "weights_hash": plan.subject.weights_hash,
        "data_hash": plan.source.fingerprint,
        "split": plan.images.split,
        "n": len(plan.images),
        "threat": plan.threat.as_dict(),
        "suite": plan.suite,
        "attacks": [a.settings() for a in made],
        "seed": plan.seed,
        "precision": plan.precision,
    }


def _images(source: DataSource, split: str, n: int | None) -> ImageSet:
    images = source.split(split)
    return images if n is None else images.first(n)


def _name(path: Path) -> str:
    """Run and checkpoint, as records name a model: "ensemble2adv-digits-tiny-s0/best"."""
    return f"{path.resolve().parent.name}/{path.stem}"


def _subject_in_memory(model: nn.Module, images: ImageSet, device: torch.device) -> Subject:
    """A model as it stands in memory: the checkpoint that it was loaded from, or something of its own."""
    if isinstance(model, Ensemble) and model.info is not None and checkpoint.is_unchanged(model):
        return Subject(name=_name(model.info.path), weights_hash=model.info.weights_hash, model=model, info=model.info)
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    # Weights do not say what a module computes: two wrappers of one network can differ in code alone.
    x, _ = images.batch(slice(0, 64))
    with engine.frozen(model), torch.no_grad():
        logits = engine.logits_of(model, x.to(device))
    digest.update(logits.cpu().contiguous().numpy().tobytes())
    return Subject(name="model", weights_hash=f"sha256:{digest.hexdigest()}", model=model)
