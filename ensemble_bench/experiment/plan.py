"""The plan of the experiment: every training, the black-box set and every evaluation, as jobs with what they need.

No torch here: a plan is data, and so are its jobs, which any process can be sent.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.experiment.sizes import LARGE, Scored, sizes_of
from ensemble_bench.records import CHECKPOINTS, Threat

BLACKBOX = "black-box set"
TRAIN = "train"
HEADLINE, LAST = "headline", "last"
# The suite that also scores the weights after the last step (Table 1a).
BOTH_CHECKPOINTS = ("paper",)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work: `call` names it (see tasks.CALLS), `arguments` are values of JSON.

    It starts once the jobs that it `needs`, by name, are done. `row` and `column` are its place in the live table, and
    `share` is its part of the work in that place. `recipe` is that of the run it works on, if it works on one.
    """

    name: str
    call: str
    arguments: Mapping[str, Any] = field(hash=False)
    row: str
    column: str
    needs: tuple[str, ...] = ()
    share: float = 1.0
    recipe: str | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to reproduce: recipes, seeds, data set, preset, and the folder of its runs.

    `test_images` is the size of the test set, `eps` the data set's own, and `block` the images of a block, the smallest
    piece of an evaluation that a job can be. `suites` says who meets which suite, and `large_seeds` how many seeds the
    costliest recipes have. `max_steps` shortens every training, and `changed` holds what that adds to the names of a
    recipe's runs. `precision` and `compile` are what presets and suites leave open, decided once for the workers of all
    machines.
    """

    recipes: tuple[str, ...]
    seeds: int
    dataset: str
    data_name: str
    data_dir: Path | None
    preset: str
    out: Path
    suites: Mapping[str, Scored] = field(hash=False)
    large_seeds: int | None = None
    test_images: int
    eps: float
    block: int
    max_steps: int | None = None
    changed: Mapping[str, str] = field(default_factory=dict, hash=False)
    device: str | None = None
    precision: str = "auto"
    compile: bool | None = None

    @property
    def where(self) -> dict[str, Any]:
        """The arguments that all calls share."""
        data_dir = None if self.data_dir is None else str(self.data_dir.resolve())
        return {"dataset": self.dataset, "data_dir": data_dir, "preset": self.preset, "device": self.device}

    def run_name(self, recipe: str, seed: int) -> str:
        """Name of the folder of a run, as the trainer gives it (rundir.default_out)."""
        changed = self.changed.get(recipe, "")
        return f"{recipe}-{self.data_name}-{self.preset}{changed and f'-{changed}'}-s{seed}"

    def seeds_of(self, recipe: str) -> range:
        """Seeds of a recipe."""
        fewer = self.large_seeds is not None and recipe in LARGE
        return range(min(self.seeds, self.large_seeds or self.seeds) if fewer else self.seeds)


def experiment_of(
    *,
    dataset: str,
    data_name: str,
    data_dir: Path | None,
    preset: str,
    seeds: int,
    out: Path,
    test_images: int,
    eps: float,
    block: int,
    recipes: Sequence[str] = (),
    most: int | None = None,
    max_steps: int | None = None,
    changed: Mapping[str, str] | None = None,
    device: str | None = None,
    precision: str = "auto",
    compile: bool | None = None,
) -> Experiment:
    """The experiment at the sizes of `preset` with `recipes` (default: all built-in ones), at most `most` images.

    Raises UnknownNameError for an unknown name, InvalidValueError for a value out of range, or a recipe given twice.
    """
    for recipe in recipes:
        registry.check("recipe", recipe)
        if recipes.count(recipe) > 1:
            raise InvalidValueError(f"recipe {recipe!r} stands twice in {','.join(recipes)}")
    for what, value in (("seeds", seeds), ("n", most), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise InvalidValueError(f"{what} is {value}: choose 1 or more")
    sizes = sizes_of(registry.check("preset", preset), dataset)
    cap = test_images if most is None else min(most, test_images)
    return Experiment(
        recipes=tuple(recipes or registry.RECIPES),
        seeds=seeds,
        dataset=dataset,
        data_name=data_name,
        data_dir=data_dir,
        preset=preset,
        out=out,
        suites={name: replace(scored, images=min(scored.images, cap)) for name, scored in sizes.suites.items()},
        large_seeds=sizes.large_seeds,
        test_images=test_images,
        eps=eps,
        block=block,
        max_steps=max_steps,
        changed=changed or {},
        device=device,
        precision=precision,
        compile=compile,
    )


def jobs_of(experiment: Experiment) -> list[Job]:
    """All jobs, in the order in which to start those that can start.

    Seed after seed, the cheap recipes first, and of every run first its training and then its evaluations: an
    experiment that is stopped has whole runs. What is needed stands before what needs it.
    """
    jobs = {job.name: job for job in _blackbox(experiment)}
    for recipe, seed in _order(experiment):
        found = registry.resolve("recipe", recipe)
        for joined in found.joined_seeds(seed):
            # A member is trained, and scored with the suite of Tables 1a and 1b, even where its seed is nobody's wish.
            jobs |= {
                job.name: job for job in _run(experiment, found.of, joined, suites=("paper",)) if job.name not in jobs
            }
        jobs |= {
            job.name: job for job in _run(experiment, recipe, seed, suites=experiment.suites) if job.name not in jobs
        }
    return list(jobs.values())


def _order(experiment: Experiment) -> Iterator[tuple[str, int]]:
    """Recipe and seed of every run asked for: seed by seed, those of LARGE last."""
    most = range(experiment.seeds)
    for large in (False, True):
        for seed in most:
            for recipe in experiment.recipes:
                if (recipe in LARGE) == large and seed in experiment.seeds_of(recipe):
                    yield recipe, seed


def _blackbox(experiment: Experiment) -> Iterator[Job]:
    if any(map(_needs_blackbox, experiment.suites)):
        yield Job(
            name=BLACKBOX,
            call="blackbox",
            arguments={**experiment.where, "root": str(experiment.out.resolve())},
            row=BLACKBOX,
            column=TRAIN,
        )


def _needs_blackbox(suite: str) -> bool:
    """Whether a suite has an attack from the black-box set."""
    return registry.BLACKBOX in registry.suite_of(suite).attacks


def _run(experiment: Experiment, recipe: str, seed: int, *, suites: Iterable[str]) -> Iterator[Job]:
    """Training and evaluations of one run."""
    found, row = registry.resolve("recipe", recipe), experiment.run_name(recipe, seed)
    folder = str((experiment.out / row).resolve())
    train = f"{TRAIN} {row}"
    members = [f"{TRAIN} {experiment.run_name(found.of, s)}" for s in found.joined_seeds(seed)]
    yield Job(
        name=train,
        call="train",
        arguments={
            **experiment.where,
            "recipe": recipe,
            "seed": seed,
            "out": folder,
            "max_steps": experiment.max_steps,
            "precision": experiment.precision,
        },
        row=row,
        column=TRAIN,
        needs=tuple(members),
        recipe=recipe,
    )
    for suite in suites:
        if suite not in experiment.suites or not experiment.suites[suite].takes(recipe, seed):
            continue
        for which in (HEADLINE, LAST) if suite in BOTH_CHECKPOINTS else (HEADLINE,):
            yield from (replace(job, recipe=recipe) for job in _evaluations(experiment, row, folder, suite, which))


def _evaluations(experiment: Experiment, row: str, folder: str, suite: str, which: str) -> Iterator[Job]:
    """The evaluation of a checkpoint: of more images than a block holds, every block on its own and then the record."""
    scored = experiment.suites[suite]
    evaluation = Job(
        name=f"{suite} {row}" + (f" ({which})" if which == LAST else ""),
        call="evaluate",
        arguments={
            "run": folder,
            "checkpoint": which,
            "runs": str(experiment.out.resolve()),
            "suite": suite,
            "n": scored.images,
            "eps": [times * experiment.eps for times in scored.times],
            "data_dir": experiment.where["data_dir"],
            "device": experiment.device,
            "precision": scored.precision or experiment.precision,
            "compile": experiment.compile,
        },
        row=row,
        column=suite,
        needs=(f"{TRAIN} {row}", *((BLACKBOX,) if _needs_blackbox(suite) else ())),
        share=1 / 2 if suite in BOTH_CHECKPOINTS else 1.0,
    )
    yield from in_blocks(evaluation, images=scored.images, block=experiment.block)


def in_blocks(evaluation: Job, *, images: int, block: int) -> list[Job]:
    """The jobs of an evaluation of more `images` than a `block` holds: every block on its own, and then the record."""
    blocks = -(-images // block)
    if blocks == 1:
        return [evaluation]
    parts = [
        replace(
            evaluation,
            name=f"{evaluation.name} block {number + 1} of {blocks}",
            call="block",
            arguments={**evaluation.arguments, "block": number},
            share=evaluation.share / blocks,
        )
        for number in range(blocks)
    ]
    needs = (*evaluation.needs, *(part.name for part in parts))
    return [*parts, replace(evaluation, needs=needs, share=0.0)]


def weights_of(run: Path, which: str) -> Path | None:
    """The file of the weights that a run calls LAST, or of HEADLINE, which tables and verdicts use; None for none yet.

    Of a run that was copied the file itself may be missing.
    """
    names = (LAST,) if which == LAST else CHECKPOINTS
    return next((run / f"{name}.safetensors" for name in names if (run / f"{name}.json").exists()), None)


def weightless(jobs: Iterable[Job]) -> frozenset[str]:
    """Names of the evaluations whose weights finished runs do not hold, nor, of an ensemble that joins runs, these."""
    jobs = list(jobs)
    trainings = {job.name: job for job in jobs if job.call == "train"}

    def lacks(run: Job, which: str) -> bool:
        """Whether a run that is finished does not hold the weights."""
        weights = weights_of(Path(run.arguments["out"]), which) if _is_there(run) else None
        return weights is not None and not weights.exists()

    def cannot(job: Job) -> bool:
        own, which = trainings[job.needs[0]], job.arguments["checkpoint"]
        joined = [trainings[need] for need in own.needs]
        if joined and (lacks(own, which) or not _is_there(own)):
            return any(lacks(run, which) for run in joined)  # they are joined, or joined again
        return lacks(own, which)

    return frozenset(job.name for job in jobs if "checkpoint" in job.arguments and cannot(job))


def kept(jobs: Iterable[Job]) -> frozenset[str]:
    """Names of the jobs whose results seem to lie there, by the names of files; the jobs themselves look closer."""
    return frozenset(job.name for job in jobs if _is_there(job))


def _is_there(job: Job) -> bool:
    if job.call == "blackbox":
        wanted = f"*-{job.arguments['preset']}-*.safetensors"
        return any((Path(job.arguments["root"]) / "blackbox").glob(wanted))
    if job.call == "train":
        return (Path(job.arguments["out"]) / "last.json").exists()
    weights = weights_of(Path(job.arguments["run"]), job.arguments["checkpoint"])
    if weights is None:
        return False
    stem = f"{job.arguments['suite']}-{weights.stem}-n{job.arguments['n']}"
    slugs = [Threat(norm="linf", eps=eps).slug for eps in job.arguments["eps"]]
    return all(any(weights.parent.glob(f"evaluations/{stem}-{slug}-*/record.json")) for slug in slugs)
