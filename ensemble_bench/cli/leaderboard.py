"""`ensemble-bench leaderboard`: the page of all models, and the table of ours beside RobustBench's."""

from pathlib import Path
from typing import Annotated

import typer

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
