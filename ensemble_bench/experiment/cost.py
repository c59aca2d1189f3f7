"""What every job will cost: steps and passes from the plan, seconds from a few of each that are measured here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ensemble_bench import attacks, data, registry
from ensemble_bench.attacks.engine import Budget
from ensemble_bench.data import DataSource
from ensemble_bench.evaluation.blackbox import expected
from ensemble_bench.evaluation.estimate import bound_of_suite, passes_an_image
from ensemble_bench.evaluation.pace import seconds_a_pass
from ensemble_bench.experiment.plan import Experiment, Job
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build, skeleton
from ensemble_bench.progress import Progress, duration, silent
from ensemble_bench.records.curves import ATTACKS
from ensemble_bench.registry import Recipe
from ensemble_bench.training import plan as plans
from ensemble_bench.training.changes import slug
from ensemble_bench.training.hardware import computing_on, resolve_device, resolve_precision
from ensemble_bench.training.plan import TrainingPlan
from ensemble_bench.training.presets import preset_of
from ensemble_bench.training.trainer import measure
from ensemble_bench.training.validation import FGSM

# Steps of a training that are measured, after one to warm up; fewer where they take longer than this many seconds.
STEPS = 4
LONGEST = 20.0
MEASURING = "measure a few steps and passes"


@dataclass(frozen=True, kw_only=True)
class JobCost:
    """Steps of a training, or at most so many passes of an evaluation, and the seconds that either may take."""

    steps: int = 0
    passes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of one recipe: the steps of a training, the seconds that it takes in all, those of a pass in every precision."""

    steps: int
    seconds: float
    seconds_a_pass: Mapping[str, float]
    architecture: Architecture


def changes_of(source: DataSource, *, preset: str, max_steps: int | None) -> dict[str, str]:
    """What `max_steps` adds to the names of a recipe's runs; nothing for those that are no longer anyway."""
    if max_steps is None:
        return {}
    found = {
        name: plans.resolve(_of(name), source, preset=preset, seed=0, device=resolve_device("cpu"), max_steps=max_steps)
        for name in registry.names("recipe")
    }
    return {name: slug(plan.changes) for name, plan in found.items() if plan.changes}


def _of(name: str) -> Recipe:
    """The recipe, or of one that joins runs that of these."""
    recipe: Recipe = registry.resolve("recipe", name)
    return recipe if recipe.of is None else _of(recipe.of)


def costs_of(
    experiment: Experiment,
    jobs: Sequence[Job],
    kept: frozenset[str],
    *,
    threads: int = 1,
    progress: Progress = silent,
) -> dict[str, JobCost]:
    """The cost of every job by its name; those that are `kept` cost nothing, and nothing is measured for them.

    Measured are a few training steps of every other recipe, and a few passes of its networks, on so many `threads`.
    """
    left = [job for job in jobs if job.name not in kept]
    recipes = dict.fromkeys(job.recipe for job in left if job.recipe is not None)
    with computing_on(threads):
        paces = _measure(experiment, list(recipes), progress)
        return {job.name: JobCost() if job.name in kept else _cost(experiment, job, paces) for job in jobs}


def _measure(experiment: Experiment, names: Sequence[str], progress: Progress) -> dict[str, Pace]:
    """The pace of every recipe; one that joins runs trains nothing itself."""
    source, device = data.open_source(experiment.dataset, experiment.data_dir), resolve_device(experiment.device)
    fixed = (scored.precision for scored in experiment.suites.values() if scored.precision is not None)
    precisions = dict.fromkeys((experiment.precision, *fixed))
    paces: dict[str, Pace] = {}
    for number, name in enumerate(names):
        progress(MEASURING, number, len(names), recipe=name)
        plan = plans.resolve(
            _of(name),
            source,
            preset=experiment.preset,
            seed=0,
            device=device,
            precision=experiment.precision,
            max_steps=experiment.max_steps,
        )
        joins = registry.resolve("recipe", name).joins
        architecture = replace(plan.architecture, members=joins) if joins else plan.architecture
        a_pass = {precision: _time_pass(architecture, experiment, precision) for precision in precisions}
        paces[name] = Pace(
            steps=0 if joins else plan.steps,
            seconds=0.0 if joins else _time_training(plan, source, device, a_pass[experiment.precision]),
            seconds_a_pass=a_pass,
            architecture=architecture,
        )
    progress(MEASURING, len(names), len(names))
    return paces


def _time_training(plan: TrainingPlan, source: DataSource, device: torch.device, seconds_a_pass: float) -> float:
    """Seconds of a whole training: steps and ending as measured, validations at most what their passes take.

    A validation of the network that was measured would say little: untrained, it is wrong about most images, and these
    are attacked no more.
    """
    step, ending = measure(plan, source, device, steps=STEPS, longest=LONGEST)
    model, classes = skeleton(plan.architecture, device="meta"), plan.architecture.classes
    n = min(plan.settings.evaluate_n, len(source.split("validation")))
    each = 1 + sum(1 + passes_an_image(attacks.get(name), model, classes=classes) for name in (FGSM, *ATTACKS))
    # At the last step there is one, and one more of the average.
    validations = -(-plan.steps // plan.settings.evaluate_every) + bool(plan.settings.average)
    return plan.steps * step + ending + validations * n * each * seconds_a_pass


def _time_pass(architecture: Architecture, experiment: Experiment, precision: str) -> float:
    device = resolve_device(experiment.device)
    budget = Budget.on(device, seed=0, batch_size=None, precision=resolve_precision(precision, device))
    model = build(architecture, seed=0).to(device).eval()
    most = max(scored.images for scored in experiment.suites.values())
    return seconds_a_pass(model, architecture.image_shape, budget, classes=architecture.classes, images=most)


def _cost(experiment: Experiment, job: Job, paces: Mapping[str, Pace]) -> JobCost:
    if job.call == "blackbox":
        return _cost_of_blackbox(experiment)
    assert job.recipe is not None
    pace = paces[job.recipe]
    if job.call == "train":
        return JobCost(steps=pace.steps, seconds=pace.seconds)
    n = min(int(job.arguments["n"]), experiment.test_images)
    if job.call == "block":
        n = min(experiment.block, n - int(job.arguments["block"]) * experiment.block)
    elif n > experiment.block:
        return JobCost()  # its blocks have done the work
    bound = bound_of_suite(job.arguments["suite"], pace.architecture, weighted=pace.architecture.gated)
    passes = len(job.arguments["eps"]) * n * bound
    return JobCost(passes=round(passes), seconds=passes * pace.seconds_a_pass[job.arguments["precision"]])


def _cost_of_blackbox(experiment: Experiment) -> JobCost:
    """Steps of both surrogates and passes of the attack on the test images, timed on the surrogates' networks."""
    source = data.open_source(experiment.dataset, experiment.data_dir)
    settings = preset_of(experiment.preset).on(source.trains_like or source.dataset)
    cost = expected(source, settings, images=experiment.test_images, device=resolve_device(experiment.device))
    return JobCost(steps=sum(cost.steps), passes=cost.passes, seconds=cost.seconds)


def rows_of(jobs: Sequence[Job], costs: Mapping[str, JobCost], kept: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """A row a kind of job: how many there are, how many are finished, steps, passes and time of those that are not."""
    kinds = dict.fromkeys((job.call if job.call != "block" else "evaluate", job.column) for job in jobs)
    for call, column in kinds:
        same = [j for j in jobs if (j.call if j.call != "block" else "evaluate", j.column) == (call, column)]
        left = [costs[job.name] for job in same if job.name not in kept]
        yield (
            {"train": "train", "blackbox": "black-box set"}.get(call, f"evaluate {column}"),
            str(len(same)),
            str(len(same) - len(left)),
            f"{sum(cost.steps for cost in left):,}",
            f"{sum(cost.passes for cost in left):,}",
            duration(sum(cost.seconds for cost in left)),
        )
