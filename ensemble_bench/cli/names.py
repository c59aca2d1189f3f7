"""`ensemble-bench list`."""

from typing import Annotated

import typer

from ensemble_bench.errors import UnknownNameError

KINDS = {
    "recipes": "recipe",
    "presets": "preset",
    "suites": "suite",
    "attacks": "attack",
    "datasets": "data set",
    "backbones": "backbone",
    "objectives": "objective",
}


def list_names(
    kind: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; by default all.", show_default=False)
    ] = None,
) -> None:
    """List the names that the other commands take."""
    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    from ensemble_bench.cli.console import show_names

    for shown in KINDS if kind is None else (kind,):
        show_names(shown, KINDS[shown])
