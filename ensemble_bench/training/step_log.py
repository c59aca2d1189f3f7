"""What a training tells other programs of every step: a line of JSON each, and TensorBoard's events."""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.files import write_atomic
from ensemble_bench.training.state import TrainingState

STEPS = "steps.jsonl"
TENSORBOARD = "tensorboard"
# Of a row of curves.csv; its others are those of the steps.
VALIDATED = ("step", "epoch", "seconds")
OF_STEPS = ("loss", "lr")


@dataclass(kw_only=True, eq=False)
class StepLog:
    """Writes what is known of a step once its loss has been read: at once, on a GPU after at most 20 steps.

    With `log_steps` lines go into steps.jsonl of the run's folder `out`, with `tensorboard` events into tensorboard/
    there. Nothing is written before `start`, which the process that writes calls.
    """

    out: Path
    log_steps: bool
    tensorboard: bool
    rate: Callable[[int], float]
    steps_per_epoch: int
    _lines: TextIO | None = field(default=None, init=False)
    _events: Any = field(default=None, init=False)

    def start(self, reached: TrainingState) -> None:
        """Be told of every step from those `reached` on; what was written of later ones, by a killed run, is void."""
        _forget(self.out / STEPS, after=reached.step)
        if self.log_steps:
            self._lines = open(self.out / STEPS, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - see `close`
        if self.tensorboard:
            self._events = _writer()(str(self.out / TENSORBOARD), purge_step=reached.step + 1)
        if self.log_steps or self.tensorboard:
            reached.on_loss = lambda step, loss: self.took_step(step, loss, reached.seconds)

    def took_step(self, step: int, loss: float, seconds: float) -> None:
        """Tell of a step, counted from 1: its loss and rate."""
        rate = self.rate(step - 1)
        epoch = round(step / self.steps_per_epoch, 4)
        self._line({"step": step, "epoch": epoch, "loss": loss, "lr": rate, "seconds": round(seconds, 3)})
        self._scalars("train", {"loss": loss, "lr": rate}, step)

    def validated(self, row: Mapping[str, float]) -> None:
        """Tell of a row of curves.csv, the accuracies on validation images after its step."""
        accuracies = {name: value for name, value in row.items() if name not in (*VALIDATED, *OF_STEPS)}
        self._line({**{name: row[name] for name in VALIDATED}, **accuracies})
        self._scalars("validation", accuracies, int(row["step"]))

    def close(self) -> None:
        """Write the rest, and nothing more."""
        if self._lines is not None:
            self._lines.close()
        if self._events is not None:
            self._events.close()

    def _line(self, values: Mapping[str, float]) -> None:
        if self._lines is not None:
            self._lines.write(json.dumps(values) + "\n")

    def _scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)


def _forget(path: Path, *, after: int) -> None:
    """Leave the lines of steps up to `after` alone, without one that was half written."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        write_atomic(path, "".join(line for line in lines if 0 < _step_of(line) <= after))


def check(*, events: bool) -> None:
    """Raise InvalidValueError where events are wanted and nothing can write them."""
    if events:
        _writer()


def _step_of(line: str) -> int:
    try:
        step = json.loads(line)["step"] if line.endswith("\n") else 0
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return step if type(step) is int else 0


def _writer() -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise InvalidValueError(
            f"tensorboard cannot be imported ({error}): pip install 'ensemble-bench[tensorboard]'"
        ) from error
