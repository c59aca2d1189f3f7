"""`ensemble-bench blackbox`."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench import registry
from ensemble_bench.cli.options import DATASET, Crop, DataDir, Device, Eps, Preset, Resize, Seed
from ensemble_bench.records.threat import parse_eps

app = typer.Typer(help="Black-box sets: images that fool two networks no model has seen.")


@app.command()
def build(
    dataset: Annotated[str, typer.Option(help=DATASET)] = "digits",
    data_dir: DataDir = None,
    resize: Resize = None,
    crop: Crop = None,
    preset: Preset = "tiny",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="File to write; by default where evaluate looks for it.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Number of test images; by default all.")] = None,
    eps: Eps = None,
    device: Device = None,
) -> None:
    """Train two surrogate networks, and keep the adversarial images that fool both."""
    dataset = registry.check_data(dataset, resize=resize, crop=crop)
    registry.check("preset", preset)
    size = parse_eps(eps) if eps is not None else None
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.evaluation.blackbox import build as build_set

    with shown_progress() as progress:
        path = build_set(
            dataset=dataset,
            preset=preset,
            seed=seed,
            out=out,
            data_dir=data_dir,
            eps=size,
            n=n,
            device=device,
            progress=progress,
        )
    typer.echo(path)
