"""`ensemble-bench evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble_bench import registry
from ensemble_bench.cli.options import (
    Arch,
    Crop,
    DataDir,
    Device,
    Gpus,
    ModelDir,
    Norm,
    Normalise,
    Ray,
    Resize,
    Runs,
    Seed,
    Split,
    Threads,
    TrainedData,
    check_ray,
    chosen_data,
    names,
    parse_sizes,
)
from ensemble_bench.errors import InvalidValueError

if TYPE_CHECKING:
    from ensemble_bench.evaluation.request import Request


def evaluate(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run folders or .safetensors files, zoo:NAME, robustbench:NAME, timm:NAME, torchvision:NAME, hf:NAME "
            "or hf:FOLDER, package.module:attribute (runs your own code), a state_dict file with --arch, or several "
            "joined by plus signs into one ensemble; by default every checkpoint under --runs, of a run's checkpoints "
            "of equal weights only the first of averaged, best, last.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help=f"Attacks to run: {names('suite')}; or suites and attacks joined by plus signs, such as "
            "quick+pgd100+torchattacks:DIFGSM(steps=20)."
        ),
    ] = "paper",
    n: Annotated[
        int | None, typer.Option(min=1, help="Number of images, from the first; by default the whole split.")
    ] = None,
    seed: Seed = 0,
    eps: Annotated[
        str | None,
        typer.Option(
            help="Size of the perturbation, such as 8/255, or several with commas between; by default that of the "
            "training."
        ),
    ] = None,
    norm: Norm = None,
    dataset: TrainedData = None,
    data_dir: DataDir = None,
    resize: Resize = None,
    crop: Crop = None,
    split: Split = "test",
    arch: Arch = None,
    normalise: Normalise = None,
    model_dir: ModelDir = Path("models"),
    blackbox: Annotated[
        Path | None, typer.Option(help="Black-box set to use; by default found under --runs, or built.")
    ] = None,
    no_blackbox: Annotated[
        bool,
        typer.Option("--no-blackbox", help="Leave the black-box attack out: the suite is then called NAME-blackbox."),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at once; changes no result of our own attacks. By default chosen.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="float32, or bf16 to search in bfloat16; auto: bf16 where the device has it. Verdicts are float32."
        ),
    ] = "auto",
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile what attacks call, which first takes a while; by default on CUDA alone.",
            show_default=False,
        ),
    ] = None,
    save_images: Annotated[
        Path | None,
        typer.Option(
            help="Save the adversarial images: a .safetensors file for float32, or a folder for PNG files, rounded to "
            "8 bits inside the ball and shown to the model again. For several models put {model} in it.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    runs: Runs = Path("runs"),
    classes: Annotated[
        bool, typer.Option("--classes", help="Print accuracies by class too, and what images are taken for.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what it would cost: passes, FLOPs and time, at most.")
    ] = False,
    ray: Ray = None,
    gpus: Gpus = 0.0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --ray: tasks at once; by default one for local, else as many as the cluster has room for.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Attack SOURCES, our models or others, with a suite, and write a record and one row an image for each.

    Without a terminal a plain line tells the progress every 30 seconds. Whatever stops it, the same command goes on.
    """
    attacks = registry.suite_of(suite).attacks
    check_ray(ray, gpus=gpus, workers=workers)
    if no_blackbox:
        if blackbox is not None:
            raise InvalidValueError(f"--no-blackbox leaves out the attack that --blackbox {blackbox} is for: give one")
        suite = registry.without_blackbox(suite)
    elif blackbox is not None and registry.BLACKBOX not in attacks:
        raise InvalidValueError(f"--blackbox is {str(blackbox)!r}, but suite {suite} has no black-box attack")
    dataset = chosen_data(dataset, resize, crop)
    sizes = parse_sizes(eps) if eps is not None else None
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.cli.console import show_records
    from ensemble_bench.cli.tables import show_tables
    from ensemble_bench.evaluation.images import target_of
    from ensemble_bench.evaluation.request import Request
    from ensemble_bench.evaluation.runner import evaluate_request
    from ensemble_bench.leaderboard.board import write_leaderboard
    from ensemble_bench.reports.tables.classes import class_tables, confusion_tables
    from ensemble_bench.training.hardware import computing_on, default_threads

    request = Request(
        models=tuple(sources) if sources else None,
        runs=runs,
        suite=suite,
        dataset=dataset,
        data_dir=data_dir,
        n=n,
        seed=seed,
        split=split,
        norm=norm,
        eps=None if sizes is None else tuple(sizes),
        arch=arch,
        normalise=normalise,
        model_dir=model_dir,
        blackbox=blackbox,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
        device=device,
        threads=threads,
        save_images=save_images,
    )
    if estimate:
        _show_estimate(request)
        return
    if ray is not None:
        from ensemble_bench.experiment.evaluations import decided

        request = decided(request, ray=ray)
        _on_ray(request, ray, gpus=gpus, workers=workers)
    with computing_on(threads or default_threads()), shown_progress() as progress:
        records = evaluate_request(request, progress)
    show_records(records)
    if classes:
        show_tables([*class_tables(records), *confusion_tables(records)])
    if save_images is not None:
        for record in records:
            typer.echo(target_of(save_images, record.model))
    # Models that were named need not lie under --runs, whose leaderboard holds what does.
    if any(runs.resolve() in record.path.resolve().parents for record in records if record.path):
        typer.echo(write_leaderboard(runs))


def _show_estimate(request: "Request") -> None:
    """Print what every attack on every model may cost."""
    from ensemble_bench.cli.tables import say, table
    from ensemble_bench.evaluation.estimate import ASSUMPTION, estimate
    from ensemble_bench.evaluation.request import plans_of
    from ensemble_bench.progress import duration

    total = guesses = 0.0
    for plan in plans_of(request):
        costs = estimate(plan, sizes=max(len(request.sizes), 1))
        rows = [(c.attack, c.images, f"{c.passes:,}", f"{c.flops:.1e}", duration(c.seconds)) for c in costs]
        passes, flops, seconds = (sum(getattr(c, name) for c in costs) for name in ("passes", "flops", "seconds"))
        rows.append(("in all", len(plan.images), f"{passes:,}", f"{flops:.1e}", duration(seconds)))
        table(f"{plan.subject.name}, suite {plan.suite.name}", ("attack", "images", "passes", "FLOPs", "time"), rows)
        guessed: dict[str, list[str]] = {}
        for cost in costs:
            if cost.guessed:
                guessed.setdefault(cost.guessed, []).append(cost.attack)
        if guessed:
            texts = (f"{', '.join(names)} as {text}" for text, names in guessed.items())
            say(f"Where settings do not tell the passes they are taken so: {'; '.join(texts)}.")
        total, guesses = total + seconds, guesses + sum(bool(c.guessed) for c in costs)
    say(
        f"In all {duration(total)}{' or so' if guesses else ''}, {ASSUMPTION}. A pass: an image pushed through the "
        "model, forward or backward; FLOPs: of convolutions and linear layers. Time: from a few passes just now."
    )


def _on_ray(request: "Request", ray: str, *, gpus: float, workers: int | None) -> None:
    """Score every block of every model as a Ray task; raises EnsembleBenchError with the first reason of a failure."""
    from contextlib import closing

    from ensemble_bench.cli.live import LiveTable
    from ensemble_bench.errors import EnsembleBenchError
    from ensemble_bench.experiment.board import FAILED, Board
    from ensemble_bench.experiment.cluster import RayPool
    from ensemble_bench.experiment.evaluations import jobs_of
    from ensemble_bench.experiment.run import run

    board = Board(jobs_of(request), expected={})
    pool = RayPool(ray, workers=workers, threads=request.threads or 1, gpus=gpus)
    with closing(pool), LiveTable(pool.workers) as table:
        run(board, pool, show=table)
    for job, status in board:
        if status.state == FAILED:
            raise EnsembleBenchError(f"{job.name}: {status.reason}")
