"""`ensemble-bench reproduce`: the paper's whole experiment, from training to tables, figures and verdicts."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble_bench import registry
from ensemble_bench.cli.options import (
    DATASET,
    Crop,
    DataDir,
    Device,
    Gpus,
    Ray,
    Resize,
    Workers,
    check_ray,
    parse_count,
)
from ensemble_bench.cli.options import Preset as PresetOption
from ensemble_bench.errors import EnsembleBenchError

if TYPE_CHECKING:
    from ensemble_bench.experiment.plan import Experiment, Job
    from ensemble_bench.experiment.run import Pool

FAILED = 1
LOCK = ".reproduce.lock"


def reproduce(
    dataset: Annotated[str, typer.Option(help=DATASET)] = "digits",
    data_dir: DataDir = None,
    resize: Resize = None,
    crop: Crop = None,
    preset: PresetOption = "tiny",
    seeds: Annotated[
        str, typer.Option(help="How many seeds every recipe has, from 0 on; 3 and 0-2 are both seeds 0, 1 and 2.")
    ] = "3",
    recipes: Annotated[
        str | None, typer.Option(help="Recipes with commas between; by default all of them.", show_default=False)
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(min=1, help="Most test images of an evaluation; by default the preset's, for each suite."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of every training; by default the preset's.")
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs; by default runs/reproduce-<data>-<preset>.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="What trainings whose preset leaves it open compute in, and attacks search in: float32 or bf16; auto: "
            "bf16 where the device has it, on a cluster float32. A training that goes on keeps its own, and suite "
            "strongest, by which boards rank, searches in float32."
        ),
    ] = "auto",
    train_only: Annotated[
        bool, typer.Option("--train-only", help="Train, and leave all evaluations and the report for later.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do and cost, and stop.")] = False,
    device: Device = None,
) -> None:
    """Train every recipe over several seeds, evaluate every model, render all tables, figures and verdicts.

    What is finished is kept: the same command goes on where it was stopped. Exit status 1 if a job failed.
    """
    check_ray(ray, gpus=gpus)
    count = parse_count(seeds)
    dataset = registry.check_data(dataset, resize=resize, crop=crop)
    registry.check("preset", preset)
    chosen = tuple(part.strip() for part in recipes.split(",")) if recipes is not None else ()
    for name in chosen:
        registry.check("recipe", name)
    from ensemble_bench import data
    from ensemble_bench.cli.live import LiveTable
    from ensemble_bench.evaluation.job import BLOCK
    from ensemble_bench.evaluation.request import Request
    from ensemble_bench.experiment.board import DONE, Board
    from ensemble_bench.experiment.cost import changes_of
    from ensemble_bench.experiment.evaluations import decided
    from ensemble_bench.experiment.plan import experiment_of, jobs_of, kept, weightless
    from ensemble_bench.experiment.run import run
    from ensemble_bench.locks import held
    from ensemble_bench.training.hardware import gpus_of

    # Nodes of several kinds, each by itself, could not go on with what another began.
    shared = decided(Request(precision=precision, device=device), ray=ray)
    source = data.open_source(dataset, data_dir)
    experiment = experiment_of(
        dataset=source.dataset,
        data_name=source.name,
        data_dir=data_dir,
        preset=preset,
        seeds=count,
        out=out or Path("runs") / f"reproduce-{source.name}-{preset}",
        test_images=len(source.split("test")),
        eps=source.default_eps,
        block=BLOCK,
        recipes=chosen,
        most=n,
        max_steps=max_steps,
        changed=changes_of(source, preset=preset, max_steps=max_steps),
        device=device,
        precision=shared.precision,
        compile=shared.compile,
    )
    planned = [job for job in jobs_of(experiment) if job.call == "train" or not train_only]
    left_out = weightless(planned)
    jobs = [job for job in planned if job.name not in left_out]
    places = gpus_of(device) if ray is None else ()
    show_costs = partial(_show_costs, experiment, jobs, places=places, left_out=left_out)
    if dry_run:
        show_costs(kept(jobs), workers=workers or len(places) or _cores())
        return
    with held(experiment.out, "reproduce", or_else=", or choose another --out", name=LOCK) as lock:
        there = kept(jobs)
        with closing(_pool(experiment, places, workers=workers, ray=ray, gpus=gpus, lock=lock)) as pool:
            pool.prepare(len(jobs) - len(there))
            expected = show_costs(there, workers=pool.workers)
            board = Board(jobs, expected=expected, kept=there)
            with LiveTable(pool.workers) as table:
                run(board, pool, show=table)
        left = len(jobs) - board.count(DONE)
        try:
            if not train_only:
                _report(experiment.out)
        except EnsembleBenchError as error:
            if not left:
                raise
            # What a failed job left behind may be the reason, and must not hide which job it was.
            typer.echo(f"no report: {error}", err=True)
    if left:
        typer.echo(f"{left} of {len(jobs)} jobs failed or were skipped; the same command tries them again", err=True)
        raise typer.Exit(FAILED)


def _cores() -> int:
    from ensemble_bench.training.cores import usable

    return len(usable())


def _show_costs(
    experiment: "Experiment",
    jobs: "list[Job]",
    there: frozenset[str],
    *,
    workers: int,
    places: Sequence[str],
    left_out: frozenset[str],
) -> dict[str, float]:
    """Print the table of costs, and what is left out for want of weights; returns the seconds of every job."""
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.cli.tables import say, table
    from ensemble_bench.evaluation.estimate import ASSUMPTION
    from ensemble_bench.experiment.cost import costs_of, rows_of
    from ensemble_bench.progress import duration

    with shown_progress() as progress:
        costs = costs_of(experiment, jobs, there, progress=progress)
    title = f"{experiment.out}: {len(jobs)} jobs, of {experiment.seeds} seeds and {len(experiment.recipes)} recipes"
    columns = ("job", "how many", "finished", "steps left", "passes left", "time left")
    table(title, columns, rows_of(jobs, costs, there))
    if left_out:
        say(f"Left out {len(left_out)} jobs on weights that finished runs do not hold, such as {min(left_out)}.")
    left = sum(cost.seconds for name, cost in costs.items() if name not in there)
    at_once = min(workers, len(places) or workers)  # more workers than GPUs wait for each other
    kind = "GPU" if places else "worker"
    say(
        f"In all {duration(left)} on one {kind}, about {duration(left / at_once)} on {at_once}. "
        f"Passes: images pushed through a model, forward or backward, {ASSUMPTION}. Time: from a few steps and passes "
        "measured just now."
    )
    return {name: cost.seconds for name, cost in costs.items()}


def _pool(
    experiment: "Experiment",
    places: Sequence[str],
    *,
    workers: int | None,
    ray: str | None,
    gpus: float,
    lock: int | None,
) -> "Pool":
    """The workers that `workers` and `ray` ask for."""
    if ray is not None:
        from ensemble_bench.experiment.cluster import RayPool

        return RayPool(ray, workers=workers or (_cores() if ray == "local" else None), gpus=gpus)
    from ensemble_bench.experiment.local import LocalPool

    return LocalPool(
        workers or len(places) or _cores(),
        gpus=places,
        log=experiment.out / "workers.log",
        held=() if lock is None else (lock,),
    )


def _report(out: Path) -> None:
    from ensemble_bench.cli.console import show_report
    from ensemble_bench.leaderboard.board import write_leaderboard
    from ensemble_bench.reports import write_report

    rendered, leaderboard = write_report(out, out / "report"), write_leaderboard(out)
    show_report(rendered)
    typer.echo(leaderboard)
