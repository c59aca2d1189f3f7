"""`ensemble-bench report` and `ensemble-bench diagnose`: what the numbers say."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench import registry
from ensemble_bench.cli.options import (
    Arch,
    Crop,
    DataDir,
    Device,
    ModelDir,
    Norm,
    Normalise,
    Resize,
    Runs,
    Seed,
    Split,
    TrainedData,
    chosen_data,
)
from ensemble_bench.records.threat import parse_eps


def report(
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default <runs>/report.")] = None,
    as_paper: Annotated[bool, typer.Option("--as-paper", help="Smooth and average as the paper does.")] = False,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table", help="Only this table: 1, 2, cost, suites, credits, paper or classes; may be given again."
        ),
    ] = None,
    figures: Annotated[
        list[str] | None, typer.Option("--figure", help="Only this figure: 2, 3, cost or eps; may be given again.")
    ] = None,
) -> None:
    """Render the paper's tables and figures from the records under --runs."""
    from ensemble_bench.cli.console import show_report
    from ensemble_bench.reports import parts_of, write_report

    parts = parts_of(tables or (), figures or ())
    show_report(write_report(runs, out or runs / "report", as_paper=as_paper, parts=parts))


def diagnose(
    model: Annotated[
        str,
        typer.Argument(help="A run, or any models joined by plus signs, as `evaluate` takes them.", show_default=False),
    ],
    n: Annotated[int, typer.Option(min=1, help="Number of images, from the first.")] = 200,
    attack: Annotated[str, typer.Option(help="Gradient attack to diagnose with.")] = "margin20",
    seed: Seed = 0,
    eps: Annotated[
        str | None, typer.Option(help="Size of the perturbation, such as 8/255; by default that of the training.")
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
    runs: Runs = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; by default diagnosis/ beside the checkpoint or records.")
    ] = None,
    device: Device = None,
) -> None:
    """Show whether the members of an ensemble fall together, and what each of them adds."""
    registry.split_steps(attack)
    dataset = chosen_data(dataset, resize, crop)
    size = parse_eps(eps) if eps is not None else None
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.cli.tables import show_tables
    from ensemble_bench.evaluation.diagnostics import diagnose as find
    from ensemble_bench.models.sources import describe
    from ensemble_bench.reports.diagnosis import tables, write_diagnosis

    with shown_progress() as progress:
        found = find(
            model,
            dataset=dataset,
            data_dir=data_dir,
            split=split,
            n=n,
            norm=norm,
            eps=size,
            attack=attack,
            seed=seed,
            arch=arch,
            normalise=normalise,
            model_dir=model_dir,
            device=device,
            progress=progress,
        )
    info = describe(model, arch=arch, normalise=normalise, model_dir=model_dir).info
    home = registry.models_folder(runs, model) if info is None else info.path.parent
    paths = write_diagnosis(found, out or home / "diagnosis")
    show_tables(tables(found))
    for path in paths:
        typer.echo(path)
