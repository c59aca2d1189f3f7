"""`ensemble-bench demo`: a small factorial of models on the embedded digits, from training to the report."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench.cli.options import Device, Seed
from ensemble_bench.records import CHECKPOINTS

# The paper's question in small: does an ensemble trained as one beat the same budget spent otherwise?
RECIPES = ("baseline", "singleadv", "doubleadv", "ensemble2adv", "separate2adv")


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo's runs.")] = Path("demo"),
    seed: Seed = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of every training; by default the preset's.")
    ] = None,
    device: Device = None,
) -> None:
    """Train five small models on the digits, evaluate them all and render Table 1; a second call goes on."""
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.cli.console import show_report
    from ensemble_bench.evaluation.runner import evaluate_checkpoints
    from ensemble_bench.leaderboard.board import write_leaderboard
    from ensemble_bench.reports import write_report
    from ensemble_bench.training.trainer import train

    with shown_progress() as progress, _one_thread():
        runs = [
            train(
                recipe,
                dataset="digits",
                preset="tiny",
                seed=seed,
                runs=out,
                resume=True,
                max_steps=max_steps,
                device=device,
                progress=progress,
            )
            for recipe in RECIPES
        ]
        files = (run / f"{name}.safetensors" for run in runs for name in CHECKPOINTS)
        checkpoints = [path for path in files if path.exists()]
        records = evaluate_checkpoints(
            checkpoints, runs=out, suite="paper", seed=seed, device=device, progress=progress
        )
        rendered, leaderboard = write_report(out, out / "report"), write_leaderboard(out)
    show_report(rendered)
    typer.echo(f"{leaderboard}\n{len(records)} records, each beside its checkpoint under {out}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: these networks are so small that a second one waits more than it works."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
