"""The demo: a small factorial of models on the embedded digits, from training to the report."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.leaderboard.board import write_leaderboard
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import Record
from ensemble_bench.reports import Report, write_report
from ensemble_bench.training.trainer import train

# The paper's question in small: does an ensemble trained as one beat the same budget spent otherwise?
RECIPES = ("baseline", "singleadv", "doubleadv", "ensemble2adv", "separate2adv")


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    max_steps: int | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> tuple[list[Record], Report, Path]:
    """Train RECIPES under `out`, score their checkpoints and render; returns records, report and leaderboard.csv.

    What an earlier call finished is kept, so that a call after an interruption goes on.
    """
    with _one_thread():
        runs = [
            train(
                recipe,
                dataset="digits",
                preset="tiny",
                seed=seed,
                out=out / f"{recipe}-digits-tiny-s{seed}",
                resume=True,
                max_steps=max_steps,
                device=device,
                progress=progress,
            )
            for recipe in RECIPES
        ]
        paths = [run / f"{name}.safetensors" for run in runs for name in ("best", "last")]
        records = evaluate_checkpoints(paths, runs=out, suite="paper", seed=seed, device=device, progress=progress)
    return records, write_report(out, out / "report"), write_leaderboard(out)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: these networks are so small that a second one waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
