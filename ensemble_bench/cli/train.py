"""`ensemble-bench train`."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ensemble_bench import registry
from ensemble_bench.cli.options import (
    DATASET,
    Crop,
    DataDir,
    Device,
    Eps,
    Preset,
    Resize,
    Runs,
    Seed,
    Threads,
    given,
    names,
    parse_seeds,
)
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError
from ensemble_bench.records.threat import parse_eps
from ensemble_bench.training import launched

SOME_FAILED = 1


def train(
    context: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE",
            help=f"What to train, one or several after each other: {names('recipe')}.",
            show_default=False,
        ),
    ],
    dataset: Annotated[str, typer.Option(help=DATASET)] = "digits",
    data_dir: DataDir = None,
    resize: Resize = None,
    crop: Crop = None,
    preset: Preset = "tiny",
    seed: Seed = 0,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds, each recipe with all of them: such as 0-2 or 0,3,5; 3 is seed 3.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; by default <runs>/<recipe>-<data>-<preset>-s<seed>, with all that the run changes "
            "of recipe and preset before the seed: <runs>/ensemble2adv-digits-tiny-objective-adp-s0."
        ),
    ] = None,
    runs: Runs = Path("runs"),
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Replace a setting of the preset: such as learning_rate=0.1, epochs=30 or network.width=2; may be "
            "given again.",
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many steps; by default the preset's number.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    match: Annotated[
        str,
        typer.Option(help="What a single model gets as much of as the ensemble: paper (its width), params or flops."),
    ] = "params",
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks of the ensemble; by default as many as in the recipe.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help=f"What is minimised: {names('objective')} (`list objectives` says what each is); by default the "
            "recipe's."
        ),
    ] = None,
    train_attack: Annotated[
        str | None, typer.Option(help="Attack to train against: ifgsm7 or nfgsm; by default the preset's.")
    ] = None,
    eps: Eps = None,
    device: Device = None,
    threads: Threads = None,
    log_steps: Annotated[
        bool, typer.Option("--log-steps", help="Write a line of JSON a step into steps.jsonl of the run.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's events into tensorboard/ of the run.")
    ] = False,
) -> None:
    """Train every RECIPE on a data set, and write checkpoints and learning curves.

    Without a terminal a plain line tells the progress every 30 seconds. Ctrl-C and SIGTERM lose no step: with --resume
    the same command goes on. Of several trainings one that fails does not stop the others, and the exit status is 1.
    With `accelerate launch -m ensemble_bench train …` several devices share every training.
    """
    for kind, name in (*(("recipe", recipe) for recipe in recipes), ("preset", preset)):
        registry.check(kind, name)
    dataset = registry.check_data(dataset, resize=resize, crop=crop)
    if objective is not None:
        registry.check("objective", objective)
    _check_concerned(recipes, match=match if given(context, "match") else None, train_attack=train_attack)
    jobs = _jobs(recipes, seed if seeds is None or given(context, "seed") else None, seeds, out)
    choices: dict[str, Any] = {
        "dataset": dataset,
        "preset": preset,
        "data_dir": data_dir,
        "runs": runs,
        "resume": resume,
        "settings": _settings(settings or ()),
        "max_steps": max_steps,
        "match": match,
        "members": members,
        "objective": objective,
        "train_attack": train_attack,
        "eps": parse_eps(eps) if eps is not None else None,
        "device": device,
        "threads": threads,
        "log_steps": log_steps,
        "tensorboard": tensorboard,
    }
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.models.checkpoint import read_info
    from ensemble_bench.training.hardware import computing_on, default_threads
    from ensemble_bench.training.trainer import train as train_recipe

    def train_one(recipe: str, seed: int) -> Path:
        with computing_on(threads or default_threads()), shown_progress() as progress:
            return train_recipe(recipe, seed=seed, out=out, progress=progress, **choices)

    trained = [train_one(*jobs[0])] if len(jobs) == 1 else _train_all(jobs, train_one)
    for run in trained:
        typer.echo(run)
        if (step := read_info(run).meta.get("overfitted")) is not None:
            typer.echo(f"{run}: catastrophic overfitting from step {step} on: not a robust model", err=True)
    if trained:
        it = "it" if len(trained) == 1 else "them"
        typer.echo(f"score {it} with: ensemble-bench evaluate {' '.join(map(str, trained))}")
    if len(trained) < len(jobs):
        raise typer.Exit(SOME_FAILED)


def _check_concerned(recipes: Sequence[str], *, match: str | None, train_attack: str | None) -> None:
    """Raise InvalidValueError for an option that is nothing to any of the recipes; to some of several it may be."""
    found = [registry.resolve("recipe", recipe) for recipe in recipes]
    trained = [recipe if recipe.of is None else registry.resolve("recipe", recipe.of) for recipe in found]
    named = ", ".join(recipes)
    if match is not None and all(recipe.width_times == 1 for recipe in trained):
        raise InvalidValueError(f"--match is {match!r}, but {named} widens no network: it is for doubleadv and quadadv")
    if train_attack is not None and not any(recipe.adversarial for recipe in trained):
        raise InvalidValueError(f"--train-attack is {train_attack!r}, but {named} trains against no attack")


def _jobs(recipes: Sequence[str], seed: int | None, seeds: str | None, out: Path | None) -> list[tuple[str, int]]:
    """Every recipe with every seed, seed by seed, so that the first comparison stands early."""
    if seed is not None and seeds is not None:
        raise InvalidValueError(f"--seed {seed} and --seeds {seeds} are both given: choose one")
    chosen = parse_seeds(seeds) if seeds is not None else [seed or 0]
    jobs = [(recipe, seed) for seed in chosen for recipe in dict.fromkeys(recipes)]
    if out is not None and len(jobs) > 1:
        raise InvalidValueError(
            f"--out is {str(out)!r}, the folder of one run, but {len(jobs)} are asked for: "
            "give --runs, the folder of them all"
        )
    return jobs


def _settings(texts: Sequence[str]) -> dict[str, str]:
    """Names and values of "name=value"; raises InvalidValueError for another text, or a name given twice."""
    settings: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise InvalidValueError(f"--set is {text!r}: expected NAME=VALUE, such as learning_rate=0.1")
        if name in settings:
            raise InvalidValueError(f"--set {name} is given twice: {settings[name]!r} and {value!r}")
        settings[name] = value
    return settings


def _train_all(jobs: Sequence[tuple[str, int]], train_one: Callable[[str, int], Path]) -> list[Path]:
    """Train one after the other; returns the runs, and says at the end which trainings failed, and why."""
    trained: list[Path] = []
    failed: list[str] = []
    try:
        for recipe, seed in jobs:
            try:
                trained.append(train_one(recipe, seed))
            except Exception as error:
                if launched.count() > 1 and not isinstance(error, EnsembleBenchError):
                    raise  # the other processes may know nothing of it, and wait for this one until it ends
                # The other trainings are worth finishing.
                failed.append(f"{recipe}, seed {seed}: {_reason(error)}")
    finally:  # also where the rest was interrupted
        if failed and launched.rank() == 0:
            print(f"{len(failed)} of {len(jobs)} trainings failed:", *failed, sep="\n  ", file=sys.stderr)
    return trained


def _reason(error: Exception) -> str:
    """One line; of a bug, whose traceback is printed at once, with the type of the error."""
    if isinstance(error, EnsembleBenchError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    traceback.print_exception(error, file=sys.stderr)
    return " ".join(f"{type(error).__name__}: {error}".split())
