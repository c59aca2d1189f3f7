"""Training: Algorithm 1 of Grefenstette et al. (2018), in a folder that survives being stopped at any moment."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from ensemble_bench import registry
from ensemble_bench.data import DataSource, open_source
from ensemble_bench.data.given import given_source
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.kinds import takes
from ensemble_bench.models.build import build
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.entry import IMAGES, entered_once
from ensemble_bench.models.folded import twin_of
from ensemble_bench.progress import Progress, silent
from ensemble_bench.randomness import generator
from ensemble_bench.records import curves
from ensemble_bench.registry import Recipe
from ensemble_bench.training import averaging, distributed, interrupts, join, rundir, state, step_log
from ensemble_bench.training import plan as plans
from ensemble_bench.training.algorithm1 import algorithm1
from ensemble_bench.training.attack import perturb, perturb_members
from ensemble_bench.training.batches import batches_of
from ensemble_bench.training.distributed import Processes
from ensemble_bench.training.hardware import computing_on
from ensemble_bench.training.objectives import LOSSES, number_of_terms, objective_of
from ensemble_bench.training.optimizer import sgd
from ensemble_bench.training.plan import TrainingPlan, chosen_recipe
from ensemble_bench.training.run import Fields, Run, evaluate, save_average, save_checkpoint, save_resume_point
from ensemble_bench.training.state import TrainingState
from ensemble_bench.training.step_log import StepLog

# Batches over which batch norm is estimated for the average: thousands of images fix a mean and a variance.
BATCH_NORM_STEPS = 50


@takes
def train(
    recipe: str | Recipe,
    *,
    dataset: str | None = None,
    data: Any = None,
    preset: str = "tiny",
    seed: int = 0,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    data_dir: str | Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    match: str = "params",
    members: int | None = None,
    objective: str | Callable[..., Any] | None = None,
    train_attack: str | None = None,
    eps: float | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    threads: int | None = None,
    log_steps: bool = False,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> Path:
    """Train `recipe` and return the folder of the run (default: <runs>/<recipe>-<data name>-<preset>-s<seed>).

    `settings` replaces fields of the preset's TrainingSettings by name: {"learning_rate": 0.1, "network.width": 2}.
    What a run has other than recipe and preset are its changes: run.json and checkpoints list them, and the default
    folder names them, as in ensemble2adv-digits-tiny-objective-adp-s0.

    The folder holds run.json, curves.csv and the checkpoints: averaged (the running average of the weights), or, where
    the preset keeps none, best (by validation accuracy under ifgsm5); and last, which exists only once training is
    finished. A finished run is returned at once. `max_steps` shortens the run and its schedule; `eps` (in units of the
    pixel range) defaults to the data set's; a widened single model has as many "params" or "flops" as the ensemble, or
    with `match` "paper" 1.5 or 2 times the width; `members` are how many networks the ensemble has, by default as many
    as in the recipe; `objective` is a name (`ensemble-bench list objectives`), by default the recipe's, or a function
    of (model, x, x_adv, y) for a loss of each image.

    The images are those of a `dataset` by name (default: digits), or `data`: a DataSource, (x, y), which is split, or
    {"train": (x, y), "test": (x, y)}, arrays or tensors, which `dataset` may give a name.

    `log_steps` writes a line of JSON a step into steps.jsonl of the run, `tensorboard` events into its tensorboard/.

    Where `accelerate launch` started several processes, each takes a block of every batch, and process 0 writes.

    `precision`, float32 or bf16, is what a run that begins takes where its settings say "auto": by default bf16 where
    the device computes in it natively. A run that goes on keeps its own.

    Raises UnknownNameError for an unknown name; InvalidValueError for a value out of range, a folder that holds
    another run, or an unfinished run while `resume` is False; AttackError when the loss or the logits stop being
    finite. Ctrl-C, and SIGTERM on the command line, leave a resume point of the current step. `threads` are those of
    a processor: by default as many as PyTorch is set to use, but for a run that goes on, to end with the same bits,
    as many as it began with.
    """
    chosen = chosen_recipe(recipe)
    registry.check("preset", preset)
    step_log.check(events=tensorboard)
    logs: dict[str, Any] = {"log_steps": log_steps, "tensorboard": tensorboard}
    processes = distributed.join(device)
    source = processes.in_turn(
        lambda: open_source(dataset or "digits", data_dir) if data is None else given_source(data, dataset)
    )
    choices: dict[str, Any] = {
        "preset": preset,
        "precision": precision,
        "settings": settings,
        "max_steps": max_steps,
        "match": match,
        "members": members,
        "objective": objective,
        "train_attack": train_attack,
        "eps": eps,
    }
    trained: Recipe = chosen if chosen.of is None else registry.resolve("recipe", chosen.of)
    plan = processes.together(lambda: plans.resolve(trained, source, seed=seed, device=processes.device, **choices))
    default = rundir.default_out(chosen.name, source.name, preset, seed, plan.changes, runs=runs)
    folder = default if out is None else Path(out)
    plan = processes.together(partial(_as_begun, chosen, plan, folder))
    distributed.check_shared(plan, processes)
    progress = processes.reports(progress)
    if chosen.of is None:
        if source.trains_like is not None and source.trains_like != source.dataset:
            told = f"{preset} has no settings for {source.name}: those of {source.trains_like} are used"
            progress(f"train {folder.name} settings", 1, 1, status=told)
        with computing_on(rundir.threads_of(folder) if threads is None else threads):
            return _train(plan, source, folder, processes, logs, resume=resume, progress=progress)
    if members is not None:
        raise InvalidValueError(f"members is {members}: {chosen.name} joins {chosen.joins} runs of {chosen.of}")
    choices["precision"] = plan.precision
    member = partial(train, chosen.of, data=source, resume=True, device=device, threads=threads, **choices, **logs)
    return join.join(chosen, plan, member, folder, processes, progress=progress)


def _as_begun(recipe: Recipe, plan: TrainingPlan, out: Path) -> TrainingPlan:
    """The plan in the precision of the run in `out`, or of those that it joins, where settings leave that open."""
    if plan.settings.precision != "auto":
        return plan
    folders = (out, *join.members_of(recipe, plan, out).values())
    return replace(plan, precision=next(filter(None, map(rundir.precision_of, folders)), plan.precision))


def _train(
    plan: TrainingPlan,
    source: DataSource,
    out: Path,
    processes: Processes,
    logs: Mapping[str, Any],
    *,
    resume: bool,
    progress: Progress,
) -> Path:
    """Carry out `plan`, from the beginning or from the resume point in `out`."""
    validation_n = min(plan.settings.evaluate_n, len(source.split("validation")))
    with contextlib.ExitStack() as locks:
        processes.on_main(partial(rundir.lock, out, locks))
        options: dict[str, Any] = {"resume": resume, "validation_n": validation_n, "progress": progress}
        if processes.on_main(partial(_is_finished, plan, out, processes, **options)):
            progress(f"train {out.name}", plan.steps, plan.steps, status="finished before")
        else:
            _carry_out(plan, source, out, processes, logs, progress)
    return out


def _carry_out(
    plan: TrainingPlan,
    source: DataSource,
    out: Path,
    processes: Processes,
    logs: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Train, in a folder that is claimed and locked."""
    with processes.holding_signals():
        # Interrupted inside the modules that torch loads on first use, Python may exit as if it had been killed.
        with interrupts.deferred():
            run = _prepare(plan, source, out, processes, logs, progress)
            reached = _continue(run)
            processes.on_main(partial(run.log.start, reached))
        try:
            _learn(run, reached)
        except KeyboardInterrupt:
            with interrupts.deferred():
                processes.on_main(partial(save_resume_point, run, reached))
            raise
        finally:
            run.log.close()
        with interrupts.deferred():
            _finish(run, reached)
        processes.handle_signals()


def _is_finished(
    plan: TrainingPlan, out: Path, processes: Processes, *, resume: bool, validation_n: int, progress: Progress
) -> bool:
    """Claim the folder; whether it holds the finished run."""
    rundir.claim(
        out,
        plan.as_dict(),
        device=str(processes.device),
        resume=resume,
        processes=processes.count,
        validation_n=validation_n,
    )
    if rundir.is_finished(out):
        (out / rundir.RESUME).unlink(missing_ok=True)  # there if the run was killed as it finished
        return True
    if (others := rundir.crossed_versions(out)) is not None:
        told = f"goes on with what was trained under {others}, which its checkpoints and records will say"
        progress(f"train {out.name} versions", 1, 1, status=told)
    if rundir.crossed_commits(out):
        told = "trained at two commits, which its records will say: no seed beside runs that stayed at one"
        progress(f"train {out.name} commits", 1, 1, status=told)
    return False


def _finish(run: Run, reached: TrainingState) -> None:
    """Write what the run ends with; the checkpoint `last` says that it is finished."""
    average = None if run.average is None else cast(Ensemble, run.average.module)
    if average is not None:
        averaging.estimate_batch_norm(average, _learned_from(run, reached.step))

    def save() -> None:
        if average is not None:
            save_average(run, average, reached.step)
        save_checkpoint(run, rundir.LAST, curves.read(run.out / rundir.CURVES)[-1])
        (run.out / rundir.RESUME).unlink(missing_ok=True)

    run.processes.on_main(save)


def _prepare(
    plan: TrainingPlan,
    source: DataSource,
    out: Path,
    processes: Processes,
    logs: Mapping[str, Any],
    progress: Progress,
) -> Run:
    settings, device = plan.settings, processes.device
    validation = source.split("validation")
    model = build(plan.architecture, seed=plan.seed).to(device).train()
    processes.share(model)
    # Before hours are spent on a network that no verdict could rest on; every validation looks again.
    entered_once(model, validation.batch(slice(IMAGES))[0].to(device))
    optimizer = sgd(model, settings)
    average = averaging.running_average(model, horizon=settings.average * plan.steps) if settings.average else None
    if average is not None:
        optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    return Run(
        plan=plan,
        out=out,
        processes=processes,
        batches=batches_of(source, settings, plan.seed, device),
        validation=validation.first(min(settings.evaluate_n, len(validation))),
        model=model,
        average=average,
        optimizer=optimizer,
        progress=progress,
        log=StepLog(out=out, rate=plan.rate, steps_per_epoch=plan.steps_per_epoch, **logs),
        # Asked once: a twin is made in every step.
        folds=twin_of(model, torch.empty(1, *source.image_shape, device=device)).folded,
    )


def _continue(run: Run) -> TrainingState:
    """State at the resume point, after the files were made to agree with it; a new state if there is none."""
    path = run.out / rundir.RESUME
    if not run.processes.on_main(path.exists):
        reached = TrainingState()
    else:
        reached = run.processes.together(lambda: state.load(path, run.model, run.optimizer, run.average))
    run.processes.on_main(partial(_agree_with, reached, run))
    return reached


def _agree_with(reached: TrainingState, run: Run) -> None:
    """Leave in the files what was known at the resume point."""
    path = run.out / rundir.CURVES
    if path.exists():
        curves.write(path, [row for row in curves.read(path) if row["step"] <= reached.step])
    if reached.best is not None and reached.best["step"] == reached.step:
        # The run may have been killed between this resume point and its checkpoint.
        save_checkpoint(run, rundir.BEST, reached.best)


def _learn(run: Run, reached: TrainingState) -> None:
    """Algorithm 1 from the step reached to the last, with evaluation and resume points between the steps."""
    shown = _report(run, reached, {})
    for step in _steps(run, reached):
        if step % run.plan.settings.checkpoint_every == 0:
            with interrupts.deferred():
                run.processes.on_main(partial(save_resume_point, run, reached))
        shown = _report(run, reached, shown)


def _steps(run: Run, reached: TrainingState) -> Iterator[int]:
    """Take the steps from the one reached to the last; yields their number after each."""
    plan, processes, clean_share = run.plan, run.processes, run.plan.settings.clean_share
    minimised = plan.function or plan.objective
    objective = objective_of(minimised, clean_share=clean_share)
    terms = number_of_terms(minimised, adversarial=plan.recipe.adversarial, clean_share=clean_share)
    return algorithm1(
        run.model,
        run.optimizer,
        reached,
        steps=plan.steps,
        sample=partial(_sample, run),
        attack=partial(_attack, run) if plan.recipe.adversarial else None,
        objective=processes.through(objective, run.model, terms=terms),
        rate=plan.rate,
        precision=plan.precision,
        mean=processes.mean,
    )


def measure(
    plan: TrainingPlan, source: DataSource, device: torch.device, *, steps: int, longest: float
) -> tuple[float, float]:
    """Seconds of a step of a training, and of the estimate of batch norm that it ends with; nothing is written.

    A step is the median of so many after one that warms up; of fewer, at least one, where they take longer than
    `longest` seconds. One batch of the estimate is measured.
    """
    plan = replace(plan, steps=max(plan.steps, steps + 1))
    run = _prepare(plan, source, Path(), Processes(device), {"log_steps": False, "tensorboard": False}, silent)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    began = now()
    times: list[float] = []
    for _ in itertools.islice(_steps(run, TrainingState()), steps + 1):
        times.append(now())
        if len(times) > 1 and times[-1] - began > longest:
            break
    step = median(after - before for before, after in itertools.pairwise(times))
    if run.average is None:
        return step, 0.0
    began = now()
    averaging.estimate_batch_norm(cast(Ensemble, run.average.module), _learned_from(run, 0, steps=1))
    return step, BATCH_NORM_STEPS * (now() - began)


def _report(run: Run, reached: TrainingState, last: Fields) -> Fields:
    """Evaluate if it is due, and report progress; returns what was shown, `last` if nothing is newer."""
    shown = last
    if run.plan.is_evaluated(reached.step):
        reached.settle()
        shown = run.processes.on_main(partial(evaluate, run, reached, last), interruptible=True)
    run.progress(run.label, reached.step, run.plan.steps, **shown)
    run.processes.handle_signals(reached.step)
    return shown


def _sample(run: Run, step: int) -> tuple[Tensor, Tensor]:
    """This process's block of a batch."""
    x, y = run.batches.at(step)
    return run.processes.block(x), run.processes.block(y)


def _attack(run: Run, x: Tensor, y: Tensor, step: int) -> Tensor:
    """x_adv against what the recipe attacks, with noise that depends on (seed, step) alone."""
    plan = run.plan
    attack = perturb_members if plan.recipe.attacked == "members" else perturb
    try:
        return attack(
            plan.settings.train_attack,
            run.model,
            x,
            y,
            plan.threat,
            generator=generator(run.device, "attack", plan.seed, step),
            start=plan.settings.attack_start,
            precision=plan.precision,
            part=run.processes.part,
            fold=run.folds,
        )
    except AttackError as error:
        raise AttackError(f"training stopped in step {step + 1}: {error}") from error


def _learned_from(run: Run, step: int, *, steps: int = BATCH_NORM_STEPS) -> Iterator[Tensor]:
    """Images of steps to come, clean, attacked or both, as training learns from them."""
    for t in range(step, step + steps):
        x, y = _sample(run, t)
        if not run.plan.recipe.adversarial or run.plan.settings.clean_share or run.plan.objective not in LOSSES:
            yield x
        if run.plan.recipe.adversarial:
            yield _attack(run, x, y, t)
