"""The zoo: published models by name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, UnknownNameError
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble

ROOT = "ENSEMBLE_BENCH_ZOO"


def find(name: str, root: str | Path | None = None) -> Path:
    """The .safetensors file of the model published as `name`, below `root`.

    `root` defaults to the folder that the environment's ENSEMBLE_BENCH_ZOO names, else to leaderboards/ here. A model
    that several boards hold is looked up as DATA/THREAT/NAME; equal weights are one model. Raises UnknownNameError that
    offers the nearest names, CheckpointError where nothing is published.
    """
    root = Path(root or os.environ.get(ROOT) or "leaderboards")
    *board, short = name.split("/")
    homes = [folder for folder in sorted(root.glob("*/*/weights/*")) if any(folder.glob(f"*{checkpoint.SUFFIX}"))]
    if not homes:
        raise CheckpointError(f"{root}: no published models: set {ROOT} to a folder of leaderboards")
    found = [home for home in homes if home.name == short and (not board or _board(home) == "/".join(board))]
    if not found:
        raise UnknownNameError("published model", name, {home.name for home in homes})
    files = {checkpoint.read_info(home).weights_hash: checkpoint.find(home) for home in found}
    if len(files) > 1:
        raise CheckpointError(
            f"zoo:{name} is {' and '.join(f'zoo:{_board(home)}/{short}' for home in found)}: say which"
        )
    return next(iter(files.values()))


def _board(home: Path) -> str:
    """Data set and threat of a published model's folder, such as cifar10/linf8of255."""
    return "/".join(home.parts[-4:-2])


def meta(name: str) -> Mapping[str, Any]:
    """What the training of a published model says of itself; raises as find."""
    return checkpoint.read_info(find(name)).meta


def load_model(name: str, *, folder: Path, data: DataSource | None) -> Ensemble:
    """A published model, its hash checked; called as every source of models is. Raises as find and checkpoint.load."""
    return checkpoint.load(find(name))
