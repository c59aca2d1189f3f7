"""A training run in memory: what it is made of, its evaluation points, and what it writes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel

from ensemble_bench.data import ImageSet
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.progress import Progress
from ensemble_bench.records import curves
from ensemble_bench.training import interrupts, rundir, state
from ensemble_bench.training.batches import Batches
from ensemble_bench.training.distributed import Processes
from ensemble_bench.training.plan import TrainingPlan
from ensemble_bench.training.provenance import commit, versions
from ensemble_bench.training.state import TrainingState
from ensemble_bench.training.step_log import StepLog
from ensemble_bench.training.validation import validate

# What progress shows beside the bar.
Fields = dict[str, float | str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A training run in memory; `average` is that of the weights, where the settings want one.

    `folds` says whether the attack may call a folded twin of the model.
    """

    plan: TrainingPlan
    out: Path
    processes: Processes
    batches: Batches
    validation: ImageSet
    model: Ensemble
    average: AveragedModel | None
    optimizer: torch.optim.SGD
    progress: Progress
    folds: bool
    log: StepLog

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.processes.device

    @property
    def label(self) -> str:
        """Its name in progress."""
        return f"train {self.out.name}"


def evaluate(run: Run, reached: TrainingState, last: Fields) -> Fields:
    """Add a row to curves.csv, save the weights if they are the best so far; returns what to show of it.

    Where curves.csv has the row, from before an interruption, nothing is done, and `last` returned.
    """
    plan, path = run.plan, run.out / rundir.CURVES
    rows = curves.read(path)
    if rows and rows[-1]["step"] >= reached.step:
        return last
    accuracies = validate(
        run.model, run.validation, plan.threat, seed=plan.seed, precision=plan.precision, device=run.device
    )
    with interrupts.deferred():
        row = {
            "step": reached.step,
            "epoch": round(reached.step / plan.steps_per_epoch, 4),
            **accuracies,
            "loss": reached.take_loss(),
            "lr": plan.rate(reached.step - 1),
            "seconds": round(reached.seconds, 3),
        }
        run.log.validated(row)
        curves.write(path, [*curves.read(path), row])
        better = reached.best is None or row["ifgsm5"] > reached.best["ifgsm5"]
        improved = run.average is None and better
        if improved:
            reached.best = row
        # The resume point comes first: it names the step of the best checkpoint, whenever the run is killed.
        save_resume_point(run, reached)
        if improved:
            save_checkpoint(run, rundir.BEST, row)
    fields: Fields = {"loss": row["loss"], "clean": row["clean"], "ifgsm5": row["ifgsm5"]}
    overfitted = _overfitted(run)
    return fields if overfitted is None else fields | {"alarm": f"catastrophic overfitting from step {overfitted}"}


def save_resume_point(run: Run, reached: TrainingState) -> None:
    """Write all that is needed to go on from the step reached."""
    state.save(run.out / rundir.RESUME, run.model, run.optimizer, reached, run.average)


def save_average(run: Run, average: Ensemble, step: int) -> None:
    """Write the running average of the weights, with its validation accuracies."""
    plan = run.plan
    accuracies = validate(
        average, run.validation, plan.threat, seed=plan.seed, precision=plan.precision, device=run.device
    )
    save_checkpoint(run, rundir.AVERAGED, {"step": step, **accuracies}, model=average)


def _overfitted(run: Run) -> int | None:
    """The step at which adversarial training began to overfit to single steps, None where it did not."""
    if not run.plan.recipe.adversarial:
        return None
    return curves.catastrophic_overfitting(curves.read(run.out / rundir.CURVES), len(run.validation))


def save_checkpoint(run: Run, name: str, row: curves.Row, model: Ensemble | None = None) -> None:
    """Write weights, by default the present ones, with their plan, step, validation accuracies, versions and commit."""
    plan = run.plan
    meta = plan.as_dict() | {
        "step": row["step"],
        "checkpoint": name.removesuffix(checkpoint.SUFFIX),
        "validation": {column: row[column] for column in ("clean", curves.ONE_STEP, *curves.ATTACKS)},
        "overfitted": _overfitted(run),
        "versions": versions(),
        "commit": commit(),
        "crossed_commits": rundir.crossed_commits(run.out),
    }
    if rundir.crossed_versions(run.out) is not None:
        meta["crossed_versions"] = True
    del meta["architecture"]  # the checkpoint holds its own
    model = run.model if model is None else model
    checkpoint.save(run.out / name, model, plan.architecture, meta, half=plan.settings.saved_as == "float16")
