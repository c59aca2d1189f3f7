"""`ensemble-bench compare`: models on the same images, each against each."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench.cli.options import Runs


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Runs, records, folders of these, or models by the names under which `evaluate` scored them.",
            show_default=False,
        ),
    ],
    suite: Annotated[str | None, typer.Option(help="Only this suite; by default every one that two share.")] = None,
    runs: Runs = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the table to, as Markdown and CSV; by default it is shown.")
    ] = None,
) -> None:
    """Compare robust accuracies on the same images: difference, interval, test, corrected for their number.

    Runs that differ in their seed alone are one row, compared over seeds and images where there are three or more.
    """
    from ensemble_bench.cli import console
    from ensemble_bench.reports.comparison import compare as compared

    found = compared(models, suite=suite, runs=runs)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    console.show_or_write(found.table, out)
