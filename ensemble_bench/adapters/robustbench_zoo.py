"""RobustBench's model zoo (Croce et al. 2021): published CIFAR-10 models, with weights in the folder that they keep."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ensemble_bench.adapters.robustbench import import_robustbench
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, UnknownNameError
from ensemble_bench.models.state_dict import reason, weights_only

DATASET = "cifar10"
THREATS = {"Linf": {"norm": "linf", "eps": 8 / 255}, "L2": {"norm": "l2", "eps": 0.5}}


def meta(name: str) -> dict[str, Any]:
    """Data set and threat model that "NAME" (Linf) or "L2/NAME" was trained for; raises UnknownNameError."""
    threat, _ = _split(name)
    return {"dataset": DATASET, "threat": THREATS[threat]}


def load_model(name: str, *, folder: Path, data: DataSource | None = None) -> nn.Module:
    """The zoo's model, by its own code; `folder`/cifar10/<threat>/NAME.pt is downloaded where it is missing.

    Raises UnknownNameError, and CheckpointError for a file that is damaged, does not fit or would run code.
    """
    threat, short = _split(name)
    path = folder / DATASET / threat / f"{short}.pt"
    try:
        # Its progress belongs on stderr: stdout is for results.
        with weights_only(), contextlib.redirect_stdout(sys.stderr):
            model: nn.Module = import_robustbench().utils.load_model(
                short, model_dir=folder, dataset=DATASET, threat_model=threat
            )
    except Exception as error:  # whatever a download, a damaged file or foreign code leads to
        # An ensemble of theirs is several files, NAME.pt_m0.pt, NAME.pt_m1.pt, …; a model of timm is in timm's cache.
        if any(path.parent.glob(f"{path.name}*")):
            raise CheckpointError(f"{path}: {reason(error)}") from error
        expected = f"expected at {path}, and " if _models(threat)[short]["gdrive_id"] else ""
        raise CheckpointError(f"robustbench:{name}: {expected}its download failed: {reason(error)}") from error
    return model


def _split(name: str) -> tuple[str, str]:
    """Threat model and name; raises UnknownNameError for what the zoo does not hold."""
    threat, slash, short = name.rpartition("/")
    threat = threat if slash else "Linf"
    if threat not in THREATS:
        raise UnknownNameError("threat model of RobustBench", threat, THREATS)
    if short not in (known := _models(threat)):
        raise UnknownNameError(f"RobustBench model ({threat})", short, known)
    return threat, short


def _models(threat: str) -> Mapping[str, Mapping[str, Any]]:
    import_robustbench()
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    models: Mapping[str, Mapping[str, Any]] = model_dicts[BenchmarkDataset(DATASET)][ThreatModel(threat)]
    return models
