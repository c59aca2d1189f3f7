"""`ensemble-bench leaderboard`: the page of all models, and the table of ours beside RobustBench's."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench.cli.options import DataDir, Device, Sets
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.records.threat import Threat

app = typer.Typer(help="The leaderboard as a static site, and beside RobustBench's.")
Root = Annotated[Path, typer.Option(help="Folder of the leaderboards, or of runs.")]


@app.command()
def build(
    root: Root = Path("leaderboards"),
    out: Annotated[Path, typer.Option(help="Folder of the site, replaced as a whole.")] = Path("site"),
    robustbench: Annotated[
        Path | None, typer.Option(help="Folder of RobustBench's model_info files, to quote their entries beside ours.")
    ] = None,
) -> None:
    """Render a page of all models and one a model, from their records alone."""
    from ensemble_bench.leaderboard.site import build_site

    typer.echo(build_site(root, out, robustbench=robustbench))


@app.command()
def gallery(
    images: Annotated[
        list[Path],
        typer.Argument(help="Folders of adversarial images, from `evaluate --save-images`.", show_default=False),
    ],
    root: Root = Path("leaderboards"),
    data_dir: DataDir = None,
    count: Annotated[int, typer.Option(min=1, max=32, help="How many images to show.")] = 8,
) -> None:
    """Keep a few clean and adversarial images and their differences for the page of the model they were made for."""
    from ensemble_bench.submissions.gallery import make_gallery

    for folder in images:
        typer.echo(make_gallery(folder, root=root, data_dir=data_dir, count=count))


@app.command()
def evaluate(
    root: Root = Path("leaderboards"),
    models: Annotated[
        str | None,
        typer.Option(help="Names of published models, with commas between; by default all without a rank."),
    ] = None,
    data_dir: DataDir = None,
    device: Device = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder to keep what was done in, and to go on from; by default none.")
    ] = None,
    runs: Sets = Path("runs"),
) -> None:
    """Evaluate published models by their board's own rules, and publish the records with the operator's verdict."""
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.cli.console import ENDS, interval
    from ensemble_bench.cli.tables import table
    from ensemble_bench.submissions.reevaluation import reevaluate

    names = None if models is None else [name for name in (part.strip() for part in models.split(",")) if name]
    if names is not None and not names:
        raise InvalidValueError(f"models is {models!r}: expected names with commas between")
    with tempfile.TemporaryDirectory() as scratch, shown_progress() as progress:
        found = reevaluate(
            root, models=names, data_dir=data_dir, device=device, work=work or scratch, runs=runs, progress=progress
        )
    if not found:
        typer.echo(f"{root}: every published model has a rank")
        return
    rows = []
    for it in found:
        score = ("", "", "") if it.record is None else interval(it.record.robust)
        place = it.reason if it.standing is None else str(it.standing.rank or "; ".join(it.standing.reasons))
        rows.append((it.name, "/".join(it.board.parts[-2:]), *score, place))
    table(
        "Evaluated by the rules of the boards", ("model", "board", "robust", *ENDS, "rank, or why there is none"), rows
    )
    if any(it.record is None for it in found):
        raise typer.Exit(1)


@app.command()
def compare(
    robustbench: Annotated[Path, typer.Argument(help="Folder of RobustBench's model_info files.")],
    root: Root = Path("leaderboards"),
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    eps: Annotated[str, typer.Option(help="Size of the perturbation, such as 8/255 or 0.5.")] = "8/255",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the table to, as Markdown and CSV; by default it is shown.")
    ] = None,
) -> None:
    """Rank RobustBench's CIFAR-10 entries and our records in one table."""
    threat = Threat.parse(eps, norm)
    from ensemble_bench.cli import console
    from ensemble_bench.leaderboard.beside import beside_robustbench
    from ensemble_bench.records import find_records

    table = beside_robustbench(robustbench, find_records(root), threat=threat)
    console.show_or_write(table, out)
