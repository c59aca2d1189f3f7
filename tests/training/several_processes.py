"""Trainings in float64 that test_distributed.py runs twice: by itself, and in two processes that share every batch.

In float32 the order of sums changes the last bits of a step, training with a high rate multiplies such a difference in
every step, and an attack by signs turns it into pixels. In float64 what remains is far below any mistake.
"""

import contextlib
import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ensemble_bench.errors import AttackError, DataError
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.training import distributed, interrupts, launched, plan, run, rundir, trainer
from ensemble_bench.training.batches import Batches

SETTINGS = {
    "steps": 8,
    "evaluate_every": 3,
    "evaluate_n": 20,
    "checkpoint_every": 3,
    "batch_size": 32,
    "average": 0.3,
    "crop": 1,
    "network.width": 0.5,
}
# Who is attacked and how, what is learned, one term of the loss or two, one network or two, with a gate or none.
TRAININGS: dict[str, dict[str, Any]] = {
    "ensemble2adv": {},
    "jointloss2adv": {"attack_start": "gaussian", "train_attack": "ifgsm2"},
    "separate2adv": {"clean_share": 0, "average": 0, "steps": 3},
    "gated2adv": {"steps": 3},
}
STOPPED = "ensemble2adv"


def train(recipe: str, out: Path, **options: Any) -> Path:
    """A training of TRAININGS, in float64, into <out>/<recipe>."""
    settings = SETTINGS | TRAININGS[recipe] | options.pop("settings", {})
    with in_float64():
        return trainer.train(recipe, settings=settings, out=out / recipe, runs=out, device="cpu", **options)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Let trainings compute in float64; checkpoints are float32 as ever."""
    build, at, save = trainer.build, Batches.at, checkpoint.save

    def save_narrow(path: Path, model: Ensemble, *rest: Any, **options: Any) -> None:
        save(path, copy.deepcopy(model).float(), *rest, **options)

    def wide(self: Batches, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = at(self, step)
        return x.double(), y

    with (
        replaced(trainer, "build", lambda *args, **options: build(*args, **options).double()),
        replaced(Batches, "at", wide),
        replaced(checkpoint, "save", save_narrow),
    ):
        yield


@contextlib.contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """Put `value` in the place of an attribute for a while."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def signalled(rank: int, step: int, number: int) -> contextlib.AbstractContextManager[None]:
    """Send the process `rank` a signal in a step."""
    sample = trainer._sample

    def signal_first(run: Any, now: int) -> Any:
        if (launched.rank(), now) == (rank, step):
            os.kill(os.getpid(), number)
        return sample(run, now)

    return replaced(trainer, "_sample", signal_first)


def raising(rank: int, place: Any, name: str, error: BaseException) -> contextlib.AbstractContextManager[None]:
    """Let a function raise in the process `rank`."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return replaced(place, name, fail) if launched.rank() == rank else contextlib.nullcontext()


def _stop_at(step: int) -> Callable[..., None]:
    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def _step(run: Path) -> str:
    """The step of a resume point."""
    with safe_open(run / rundir.RESUME, framework="pt") as file:
        return str(json.loads(file.metadata()["progress"])["step"])


def _threads() -> int:
    """The threads of this process, those of C++ too; 0 where the system does not tell."""
    return len(list(Path("/proc/self/task").glob("*")))


def told(work: Callable[[], object]) -> str:
    """The type and message of what `work` raises."""
    try:
        work()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(out: Path) -> None:
    """Do all that test_distributed.py asks about; what was raised goes to <out>/<rank>.json."""
    said: dict[str, Any] = {}
    for recipe in TRAININGS:
        train(recipe, out)

    with interrupts.terminable():
        with signalled(1, 4, interrupts.SIGTERM):
            said["signal"] = told(lambda: train(STOPPED, out / "signal"))
        said["reached"] = _step(out / "signal" / STOPPED)
        said["unfinished"] = told(lambda: train(STOPPED, out / "signal"))
        train(STOPPED, out / "signal", resume=True)
    with raising(0, run, "validate", KeyboardInterrupt()):
        said["validating"] = told(lambda: train(STOPPED, out / "validating"))
    train(STOPPED, out / "validating", resume=True)
    said["callback"] = told(lambda: train(STOPPED, out / "callback", progress=_stop_at(4)))

    said["batch"] = told(lambda: train(STOPPED, out / "none", settings={"batch_size": 33}))
    with raising(1, plan, "resolve", DataError("no images here")):
        said["data"] = told(lambda: train(STOPPED, out / "none"))
    said["seed"] = told(lambda: train(STOPPED, out / "none", seed=launched.rank()))
    with raising(0, run, "validate", AttackError("not finite")):
        said["attack"] = told(lambda: train(STOPPED, out / "attack"))
    said["diverged"] = told(lambda: train(STOPPED, out / "diverged", settings={"learning_rate": 1e200}))
    threads = [_threads()]
    distributed.leave()
    threads.append(_threads())
    (out / f"{launched.rank()}.json").write_text(json.dumps(said | {"threads": threads}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
