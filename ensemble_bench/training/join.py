"""Separately trained networks, joined into one ensemble at test time."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import checkpoint
from ensemble_bench.models.architecture import CheckpointInfo
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.progress import Progress
from ensemble_bench.registry import Recipe
from ensemble_bench.training import interrupts, rundir
from ensemble_bench.training.distributed import Processes
from ensemble_bench.training.plan import TrainingPlan
from ensemble_bench.training.provenance import commit, versions


def join(
    recipe: Recipe,
    plan: TrainingPlan,
    train_member: Callable[..., Path],
    out: Path,
    processes: Processes,
    *,
    progress: Progress,
) -> Path:
    """Join the runs of `recipe.joined_seeds(plan.seed)` into the checkpoints that all of them have.

    Ensembles of different seeds share no network, so that they are independent samples of the recipe.
    `train_member(seed=…, out=…)` returns a finished run, continues an interrupted one and trains a missing one. Raises
    InvalidValueError if `out` holds another run or joins other weights, or if a member's folder holds another run.
    """
    folders = members_of(recipe, plan, out)
    seeds = list(folders)
    processes.on_main(partial(_refuse_other_run, recipe, plan, folders, out))
    runs = [train_member(seed=seed, out=folder, progress=progress) for seed, folder in folders.items()]
    processes.on_main(partial(_finish, recipe, plan, seeds, runs, out, device=str(processes.device)))
    progress(f"join {out.name}", len(runs), len(runs))
    return out


def members_of(recipe: Recipe, plan: TrainingPlan, out: Path) -> dict[int, Path]:
    """The runs that a joined run in `out` joins, by seed: they lie beside it under their default names."""
    name = partial(rundir.default_out, plan.recipe.name, plan.data_name, plan.preset)
    return {seed: name(seed, plan.changes, runs=out.parent) for seed in recipe.joined_seeds(plan.seed)}


def _finish(recipe: Recipe, plan: TrainingPlan, seeds: list[int], runs: list[Path], out: Path, *, device: str) -> None:
    """Write the joined checkpoints of finished runs; only described where a run did not keep the weights.

    Of a joined run that is finished, those are written whose weights are gone while its members still have theirs.
    """
    names = [
        name
        for name in (rundir.AVERAGED, rundir.BEST, rundir.LAST)
        if all((run / name).with_suffix(".json").exists() for run in runs)
    ]
    parts = {name: [checkpoint.read_description(run / name) for run in runs] for name in names}
    document = _document(recipe, plan, seeds) | {
        "joins": [
            {"run": run.name, **{Path(name).stem: infos[i].weights_hash for name, infos in parts.items()}}
            for i, run in enumerate(runs)
        ]
    }
    with ExitStack() as locks:
        rundir.lock(out, locks)
        rundir.claim(out, document, device=device, resume=True)
        finished = rundir.is_finished(out)
        with interrupts.deferred():
            for name, infos in parts.items():  # last is the last: its presence says that the run is finished
                if not finished:
                    _save(out / name, infos, plan, document)
                elif not (out / name).exists() and (out / name).with_suffix(".json").exists():
                    _restore(out / name, infos, plan)


def _document(recipe: Recipe, plan: TrainingPlan, seeds: list[int]) -> dict[str, Any]:
    """The contents of a joined run's run.json, apart from the hashes of the members' weights."""
    architecture = replace(plan.architecture, members=len(seeds)).as_dict()
    return plan.as_dict() | {"recipe": recipe.name, "seeds": seeds, "architecture": architecture}


def _refuse_other_run(recipe: Recipe, plan: TrainingPlan, folders: Mapping[int, Path], out: Path) -> None:
    """Raise InvalidValueError for folders of other runs, before the members are trained.

    A member would go on in the precision that it began with, which has to be that of all.
    """
    if rundir.read_run(out) is not None:
        rundir.claim(out, _document(recipe, plan, list(folders)), device="", resume=True)
    for folder in folders.values():
        if (begun := rundir.precision_of(folder)) not in (None, plan.precision):
            raise InvalidValueError(
                f"{folder} was trained in {begun}, and {out.name} joins networks trained in {plan.precision}: "
                "choose another folder for all of them"
            )


def _save(path: Path, parts: list[CheckpointInfo], plan: TrainingPlan, document: Mapping[str, Any]) -> None:
    """Write the ensemble of all members of `parts`; its `step` is the highest of theirs."""
    steps = [part.meta["step"] for part in parts]
    meta = dict(document) | {
        "step": max(steps),
        "member_steps": steps,
        "checkpoint": path.stem,
        "validation": {},
        "overfitted": next((step for part in parts if (step := part.meta.get("overfitted")) is not None), None),
        "versions": versions(),
        "commit": commit(),
        "crossed_commits": any(part.meta.get("crossed_commits") for part in parts),
    }
    if any(part.meta.get("crossed_versions") for part in parts):
        meta["crossed_versions"] = True
    architecture = replace(plan.architecture, members=len(parts))
    del meta["architecture"]
    if not all(part.path.exists() for part in parts):
        checkpoint.describe(path, architecture, meta)
        return
    checkpoint.save(path, _joined(parts), architecture, meta, half=plan.settings.saved_as == "float16")


def _restore(path: Path, parts: list[CheckpointInfo], plan: TrainingPlan) -> None:
    """Write the weights of a joined checkpoint again, where it is described with some and all members have theirs."""
    if checkpoint.read_description(path).weights_hash and all(part.path.exists() for part in parts):
        checkpoint.restore(path, _joined(parts), half=plan.settings.saved_as == "float16")


def _joined(parts: list[CheckpointInfo]) -> Ensemble:
    models = [checkpoint.load(part.path) for part in parts]
    return Ensemble(member for model in models for member in model.members)
