"""`ensemble-bench compare`: models on the same images, each against each."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench.errors import InvalidValueError


def compare(
    models: Annotated[
        list[Path],
        typer.Argument(help="Runs, records, or folders of these, scored by `evaluate`.", show_default=False),
    ],
    suite: Annotated[str | None, typer.Option(help="Only this suite; by default every one that two share.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the table to, as Markdown and CSV; by default it is shown.")
    ] = None,
) -> None:
    """Compare robust accuracies on the same images: difference, interval, test, corrected for their number.

    Runs that differ in their seed alone are one row, compared over seeds and images where there are three or more.
    """
    from ensemble_bench.cli import console
    from ensemble_bench.reports.comparison import compare as compared
    from ensemble_bench.reports.comparison import records_at

    for path in models:
        if not path.exists():
            raise InvalidValueError(f"{path} does not exist: expected a run, a record, or a folder of these")
    found = compared(records_at(models), suite=suite)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    console.show_or_write(found.table, out)
