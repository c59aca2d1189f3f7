"""The folder of a run: the names of its files, and the check that it may be trained or continued."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.files import clear_leftovers, write_atomic
from ensemble_bench.locks import held
from ensemble_bench.models import checkpoint
from ensemble_bench.records import sealed, trained_anew
from ensemble_bench.records.training import run_of
from ensemble_bench.training.changes import slug
from ensemble_bench.training.plan import differences
from ensemble_bench.training.presets import TrainingSettings
from ensemble_bench.training.provenance import changed, commit, versions

RUN = "run.json"
RESUME = "resume.safetensors"
CURVES = "curves.csv"
AVERAGED = "averaged.safetensors"
BEST = "best.safetensors"
LAST = "last.safetensors"
FILES = (RESUME, CURVES, AVERAGED, BEST, LAST)
# The longest name that a submission may have.
LONGEST = 80
_DEFAULTS = {setting.name: setting.default for setting in fields(TrainingSettings) if setting.default is not MISSING}


def default_out(
    recipe: str,
    data_name: str,
    preset: str,
    seed: int,
    changes: Mapping[str, Any] | None = None,
    *,
    runs: str | Path = "runs",
) -> Path:
    """The default folder of a run: <runs>/<recipe>-<data name>-<preset>[-<changes>]-s<seed>.

    What the run changes of recipe and preset is named, "ensemble2adv-digits-tiny-objective-adp-s0"; where the name
    would have more than 80 characters, a hash stands for the rest of the changes.
    """
    start, end = f"{recipe}-{data_name}-{preset}", f"-s{seed}"
    changed = f"-{slug(changes, max(12, LONGEST - len(start) - len(end) - 1))}" if changes else ""
    return Path(runs) / f"{start}{changed}{end}"


def is_finished(out: str | Path) -> bool:
    """Whether the run in folder `out` has taken its last step, after which it holds the checkpoint `last`."""
    return (Path(out) / LAST).with_suffix(".json").exists()


def check_whole(out: Path) -> None:
    """Raise CheckpointError, naming the file, unless the checkpoints of a finished run are as they were written."""
    for name in (AVERAGED, BEST, LAST):
        if (out / name).with_suffix(".json").exists() or (out / name).exists():
            checkpoint.check_whole(out / name)


def lock(out: Path, locks: ExitStack) -> None:
    """Lock the folder of a run until `locks` are let go, and clear what a killed training had half written there.

    Raises InvalidValueError where another training is at work.
    """
    if not out.exists() or out.is_dir():  # another file is refused when the folder is claimed
        locks.enter_context(held(out, "training", or_else=", or choose another --out"))
        clear_leftovers(out)


def read_run(out: Path) -> dict[str, Any] | None:
    """The contents of run.json in `out`, None if there is none; raises CheckpointError if it cannot be read."""
    path = out / RUN
    if not path.exists():
        return None
    try:
        return run_of(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): {trained_anew(out)}, or choose another --out"
        ) from None


def crossed_commits(out: Path) -> bool:
    """Whether the run in folder `out` was continued at another commit than it began at, now or before."""
    return _crossed(read_run(out) or {})


def crossed_versions(out: Path) -> str | None:
    """Versions that the run in `out` was trained under before, in words; None if under those of now alone."""
    run = read_run(out) or {}
    found = [under for under in (run.get("versions"), *(run.get("later_versions") or ())) if under != versions()]
    return "; and under ".join(changed(under, versions()) for under in found) or None


def _crossed(run: Mapping[str, Any]) -> bool:
    return bool(run.get("crossed_commits")) or run.get("commit") != commit()


def threads_of(out: Path) -> int | None:
    """Threads that the run in `out` began with; None if there is no run, or one that does not say."""
    threads = (read_run(out) or {}).get("threads")
    return threads if isinstance(threads, int) else None


def precision_of(out: Path) -> str | None:
    """What the run in `out` began with where its settings leave the precision open; None for another run, or none."""
    run = read_run(out) or {}
    is_open = (run.get("settings") or {}).get("precision") == "auto"
    return run.get("precision") if is_open else None


def claim(
    out: Path,
    plan: Mapping[str, Any],
    *,
    device: str,
    resume: bool,
    processes: int = 1,
    validation_n: int | None = None,
) -> None:
    """Write run.json into a new folder, or check that the folder holds a run of the same plan.

    Number of processes and of threads, device, versions and commit are written down, but are no part of what a run is;
    so are `validation_n`, the number of images that the points of curves.csv are of (a split may hold fewer than the
    plan wants), and that the run goes on at another commit or under other versions than it began at. Raises
    InvalidValueError, with nothing overwritten, if `out` holds another run, other files, or, while `resume` is False,
    an unfinished run; CheckpointError for a finished one whose checkpoints are damaged.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(plan))
    existing = read_run(out)
    if existing is None:
        if out.exists() and (not out.is_dir() or any((out / name).exists() for name in FILES)):
            raise InvalidValueError(f"{out} exists and is not a run that can be continued: choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        made: dict[str, Any] = {"started": started, "device": device}
        made |= {"processes": processes, "threads": torch.get_num_threads()}
        if validation_n is not None:
            made["validation_n"] = validation_n
        document = wanted | made | {"versions": versions(), "commit": commit()}
        _write_run(out, document)
        return
    # What they changed is in the other values too; runs of versions before lack the list of it.
    wanted.pop("changes", None)
    # What the data are says their hash; they may have been moved.
    wanted.pop("dataset", None)
    # A setting that their version did not know yet had the value that is now its default.
    known = existing | {"settings": _DEFAULTS | (existing.get("settings") or {})}
    if different := differences(wanted, known):
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise InvalidValueError(f"{out} holds another run ({different[0]}{more}): choose another --out")
    if not resume and not is_finished(out):
        raise InvalidValueError(
            f"{out} holds an unfinished run of this: pass --resume to continue it, or another --out"
        )
    if is_finished(out):
        check_whole(out)
        return
    later = existing.get("later_versions") or []
    told: dict[str, Any] = {"crossed_commits": True} if _crossed(existing) else {}
    if versions() not in (existing.get("versions"), *later):
        told["later_versions"] = [*later, versions()]
    # The next continuation may be at the first commit, and under the first versions, again.
    if told | existing != existing:
        _write_run(out, existing | told)


def _write_run(out: Path, document: Mapping[str, Any]) -> None:
    write_atomic(out / RUN, json.dumps(sealed(document), indent=2) + "\n")
