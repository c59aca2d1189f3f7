"""The folder of a run: the names of its files, and the check that it may be trained or continued."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.files import write_atomic
from ensemble_bench.training.plan import differences
from ensemble_bench.training.provenance import commit, versions

RUN = "run.json"
RESUME = "resume.safetensors"
CURVES = "curves.csv"
BEST = "best.safetensors"
LAST = "last.safetensors"


def default_out(recipe: str, data_name: str, preset: str, seed: int) -> Path:
    """The default folder of a run: runs/<recipe>-<data name>-<preset>-s<seed>."""
    return Path("runs") / f"{recipe}-{data_name}-{preset}-s{seed}"


def is_finished(out: str | Path) -> bool:
    """Whether the run in folder `out` has taken its last step, after which it holds the checkpoint `last`."""
    return (Path(out) / LAST).with_suffix(".json").exists()


def read_run(out: Path) -> dict[str, Any] | None:
    """The contents of run.json in `out`, None if there is none; raises CheckpointError if it cannot be read."""
    path = out / RUN
    if not path.exists():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return dict(document)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): choose another --out") from None


def claim(out: Path, plan: Mapping[str, Any], *, device: str, resume: bool, validation_n: int | None = None) -> None:
    """Write run.json into a new folder, or check that the folder holds a run of the same plan.

    `validation_n` is the number of validation images that the points of curves.csv are of; a split may hold fewer than
    the plan wants.

    Raises InvalidValueError, with nothing overwritten, if `out` holds another run, other files, or, while `resume` is
    False, an unfinished run.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(plan))
    existing = read_run(out)
    if existing is None:
        if out.exists() and (not out.is_dir() or any((out / name).exists() for name in (RESUME, CURVES, BEST, LAST))):
            raise InvalidValueError(f"{out} exists and is not a run that can be continued: choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        made: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "device": device}
        if validation_n is not None:
            made["validation_n"] = validation_n
        document = wanted | made | {"versions": versions(), "commit": commit()}
        write_atomic(out / RUN, json.dumps(document, indent=2) + "\n")
        return
    if different := differences(wanted, existing):
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise InvalidValueError(f"{out} holds another run ({different[0]}{more}): choose another --out")
    if not resume and not is_finished(out):
        raise InvalidValueError(
            f"{out} holds an unfinished run of this: pass --resume to continue it, or another --out"
        )
