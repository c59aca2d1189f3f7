"""`ensemble-bench train`."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench import registry
from ensemble_bench.cli.options import DataDir, Device, Eps, Preset, Seed, names, parse_eps


def train(
    recipe: Annotated[str, typer.Argument(help=f"What to train: {names('recipe')}.", show_default=False)],
    dataset: Annotated[str, typer.Option(help=f"Data set: {names('data set')}.")] = "digits",
    data_dir: DataDir = None,
    preset: Preset = "tiny",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/<recipe>-<data>-<preset>-s<seed>.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many steps; by default the preset's number.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    match: Annotated[
        str,
        typer.Option(help="What a single model gets as much of as the ensemble: paper (its width), params or flops."),
    ] = "params",
    objective: Annotated[
        str | None,
        typer.Option(
            help="ensemble: loss of the mean probability; member-mean: mean of the members' losses; "
            "adp: their sum, and a bonus for members that diverge; by default the recipe's."
        ),
    ] = None,
    train_attack: Annotated[
        str | None, typer.Option(help="Attack to train against: ifgsm7 or nfgsm; by default the preset's.")
    ] = None,
    eps: Eps = None,
    device: Device = None,
) -> None:
    """Train RECIPE on a data set, and write checkpoints and learning curves."""
    for kind, name in (("recipe", recipe), ("data set", dataset), ("preset", preset)):
        registry.check(kind, name)
    size = parse_eps(eps) if eps is not None else None
    from ensemble_bench.cli.console import Bars
    from ensemble_bench.training.trainer import train as train_recipe

    with Bars() as bars:
        run = train_recipe(
            recipe,
            dataset=dataset,
            preset=preset,
            seed=seed,
            out=out,
            data_dir=data_dir,
            resume=resume,
            max_steps=max_steps,
            match=match,
            objective=objective,
            train_attack=train_attack,
            eps=size,
            device=device,
            progress=bars,
        )
    typer.echo(f"{run}\nscore it with: ensemble-bench evaluate {run}")
