"""What a job calls: the package's own public functions, in whatever process it runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ensemble_bench.errors import CheckpointError
from ensemble_bench.experiment.plan import weights_of
from ensemble_bench.progress import Progress
from ensemble_bench.records import CHECKPOINTS


def perform(call: str, arguments: Mapping[str, Any], progress: Progress) -> None:
    """Do the work of a job; what is finished already is left as it is. Raises what the called function raises."""
    CALLS[call](dict(arguments), progress)


def load() -> None:
    """Import what jobs need, which takes a process seconds, before the first job comes."""
    import ensemble_bench.evaluation.runner
    import ensemble_bench.training.trainer  # noqa: F401


def _train(arguments: dict[str, Any], progress: Progress) -> None:
    from ensemble_bench.training.trainer import train

    train(arguments.pop("recipe"), resume=True, progress=progress, **arguments)


def _blackbox(arguments: dict[str, Any], progress: Progress) -> None:
    from ensemble_bench import data
    from ensemble_bench.evaluation.blackbox import build, default_out
    from ensemble_bench.threat import ThreatModel

    source = data.open_source(arguments["dataset"], arguments["data_dir"])
    root = Path(arguments.pop("root")) / "blackbox"
    out = default_out(source.name, arguments["preset"], ThreatModel(eps=source.default_eps), root=root)
    build(out=out, progress=progress, **arguments)


def _request(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an evaluation, with the checkpoint that the run turned out to have.

    Raises CheckpointError where it has none.
    """
    if "run" not in arguments:
        return arguments
    run, which = Path(arguments.pop("run")), arguments.pop("checkpoint")
    if (weights := weights_of(run, which)) is None:
        raise CheckpointError(f"{run}: holds no checkpoint: expected one of {', '.join(CHECKPOINTS)}")
    return {"models": (weights,), **arguments}


def _evaluate(arguments: dict[str, Any], progress: Progress) -> None:
    from ensemble_bench.evaluation.runner import evaluate_checkpoints

    evaluate_checkpoints(progress=progress, **_request(arguments))


def _block(arguments: dict[str, Any], progress: Progress) -> None:
    from ensemble_bench.evaluation.request import Request
    from ensemble_bench.evaluation.runner import evaluate_block

    block = arguments.pop("block")
    evaluate_block(Request(**_request(arguments)), block, progress=progress)


CALLS: Mapping[str, Callable[[dict[str, Any], Progress], None]] = {
    "train": _train,
    "blackbox": _blackbox,
    "evaluate": _evaluate,
    "block": _block,
}
