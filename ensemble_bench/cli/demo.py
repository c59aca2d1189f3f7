"""`ensemble-bench demo`."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench.cli.options import Device, Seed


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo's runs.")] = Path("runs/demo"),
    seed: Seed = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of every training; by default the preset's.")
    ] = None,
    device: Device = None,
) -> None:
    """Train five small models on the digits, evaluate them all and render Table 1; a second call goes on."""
    from ensemble_bench.cli.console import Bars, show_report
    from ensemble_bench.demo import run_demo

    with Bars() as bars:
        records, rendered, leaderboard = run_demo(out, seed=seed, max_steps=max_steps, device=device, progress=bars)
    show_report(rendered)
    typer.echo(f"{leaderboard}\n{len(records)} records, each beside its checkpoint under {out}")
