"""Run folders to evaluate, and what of a record two evaluations share."""

from pathlib import Path
from typing import Any

from small_models import ARCHITECTURE, trained

from ensemble_bench.models import checkpoint
from ensemble_bench.records import Record

N = 48


def same_but_seconds(record: Record) -> dict[str, Any]:
    values = record.as_dict()
    for part in (values, *values["attacks"]):
        del part["seconds"]
        for stage in part.get("stages") or ():
            del stage["seconds"]
    return values


def make_run(folder: Path, *, seed: int = 0, names: tuple[str, ...] = ("best", "last")) -> Path:
    """A run folder as the trainer leaves it."""
    meta = {
        "recipe": "singleadv",
        "preset": "tiny",
        "dataset": "digits",
        "data_name": "digits",
        "seed": seed,
        "seeds": [seed],
        "step": 120,
        "threat": {"norm": "linf", "eps": 32 / 255},
    }
    for i, name in enumerate(names):
        model = trained(seed=seed, eps=0.1 if i == 0 else 0.0)
        checkpoint.save(folder / f"{name}.safetensors", model, ARCHITECTURE, {**meta, "checkpoint": name})
    (folder / "run.json").write_text("{}")
    return folder
