"""What is asked of an evaluation of checkpoints, as data, and the plan of every model that it names."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ensemble_bench.attacks.engine import Budget
from ensemble_bench.data import DataSource, ImageSet
from ensemble_bench.errors import CheckpointError
from ensemble_bench.evaluation import images as adversarial
from ensemble_bench.evaluation import subject as subjects
from ensemble_bench.evaluation.plan import EvaluationPlan, source_of, threat_of
from ensemble_bench.models import checkpoint, sources
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import CHECKPOINTS
from ensemble_bench.registry import BLACKBOX, suite_of
from ensemble_bench.training.hardware import resolve_device, resolve_precision


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to score and how: the arguments of `evaluate_checkpoints` as data, which other processes can be sent."""

    models: tuple[str | Path, ...] | None = None
    runs: str | Path = "runs"
    suite: str = "paper"
    dataset: str | None = None
    data_dir: str | Path | None = None
    n: int | None = None
    seed: int = 0
    split: str = "test"
    norm: str | None = None
    eps: tuple[float, ...] | None = None
    arch: str | None = None
    normalise: str | None = None
    model_dir: str | Path = "models"
    batch_size: int | None = None
    blackbox: str | Path | None = None
    device: str | torch.device | None = None
    threads: int | None = None
    precision: str = "auto"
    compile: bool | None = None
    save_images: str | Path | None = None

    @property
    def sizes(self) -> list[float]:
        """Every eps once, ascending; none where the models say theirs."""
        return sorted(set(self.eps or ()))


def plans_of(request: Request, progress: Progress = silent) -> Iterator[EvaluationPlan]:
    """A plan for every model of `request` and, where the suite wants them, its parts; of several eps the smallest."""
    runs, chosen, sizes = Path(request.runs), suite_of(request.suite), request.sizes
    models = _find(runs, progress) if request.models is None else request.models
    wanted = [
        sources.describe(model, arch=request.arch, normalise=request.normalise, model_dir=request.model_dir)
        for model in models
    ]
    if request.save_images is not None:
        several = len(wanted) * (2 if chosen.views else 1)
        adversarial.check_choice(request.save_images, evaluations=several, sizes=len(sizes))
    opened: dict[str, DataSource] = {}
    for model in wanted:
        source = source_of(model, request.dataset, request.data_dir, known=opened)
        plan = EvaluationPlan(
            source=source,
            images=images_of(source, request.split, request.n),
            threat=threat_of(model, source, request.norm, sizes[0] if sizes else None),
            subject=subjects.of_source(model, source, runs=runs),
            suite=chosen,
            budget=budget_on(
                resolve_device(request.device),
                seed=request.seed,
                batch_size=request.batch_size,
                precision=request.precision,
                compile=request.compile,
            ),
            blackbox=None if request.blackbox is None else Path(request.blackbox),
            blackbox_root=runs / BLACKBOX,
            data_dir=request.data_dir,
            threads=request.threads,
            progress=progress,
        )
        for part in (plan.subject, *(plan.subject.views() if chosen.views else [])):
            yield replace(plan, subject=part, save_images=adversarial.place_of(request.save_images, part.name))


def budget_on(
    device: torch.device, *, seed: int, batch_size: int | None, precision: str, compile: bool | None
) -> Budget:
    """Budget on a device, which decides on a precision of "auto", and whether to compile where that is not said."""
    return Budget.on(
        device,
        seed=seed,
        batch_size=batch_size,
        precision=resolve_precision(precision, device) if precision == "auto" else precision,
        compile=device.type == "cuda" if compile is None else compile,
    )


def images_of(source: DataSource, split: str, n: int | None) -> ImageSet:
    """The first `n` images of a split, or all."""
    images = source.split(split)
    return images if n is None else images.first(n)


def _find(runs: Path, progress: Progress) -> list[Path]:
    """Every checkpoint below `runs`, of those of a run with equal weights the first; black-box surrogates are none."""
    found = [p for name in CHECKPOINTS for p in runs.rglob(f"{name}.safetensors")]
    found = [p for p in found if (p.parent / "run.json").exists()]
    if not found:
        raise CheckpointError(f"{runs}: no checkpoints to score: `ensemble-bench train RECIPE` makes them")
    kept: dict[tuple[Path, str], Path] = {}
    for path in found:
        first = kept.setdefault((path.parent, checkpoint.read_info(path).weights_hash), path)
        if first is not path:
            progress(f"{path.parent.name}/{path.stem}", 1, 1, status=f"has the weights of {first.stem}, scored as that")
    return sorted(kept.values())
