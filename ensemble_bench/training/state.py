"""The state of a training run between two steps, and resume.safetensors, the file that holds it."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ensemble_bench.errors import AttackError, CheckpointError
from ensemble_bench.files import write_atomic
from ensemble_bench.records import SELF_HASH, opened
from ensemble_bench.records.decoding import decode


@dataclass(kw_only=True)
class TrainingState:
    """Steps taken, losses and time of a run; random numbers need no state, they are a function of (seed, step).

    `best` is the row of curves.csv with the highest validation accuracy under ifgsm5 so far. `loss_sum` is the sum of
    the training losses of the `loss_n` steps since the last row. `seconds_before` is the wall time before this process.
    `on_loss` is called with every step and its loss, once that has been read.
    """

    step: int = 0
    best: Mapping[str, float] | None = None
    loss_sum: float = 0.0
    loss_n: int = 0
    seconds_before: float = 0.0
    on_loss: Callable[[int, float], None] | None = None
    _started: float = field(default_factory=time.monotonic)
    _pending: list[Tensor] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Wall time of training so far, in this process and the ones that were interrupted."""
        return self.seconds_before + time.monotonic() - self._started

    def took_step(self, loss: Tensor) -> None:
        """Count a step and its loss; those on a GPU are read 20 at a time, because reading one waits for the GPU."""
        self.step += 1
        self._pending.append(loss)
        if loss.device.type == "cpu" or len(self._pending) == 20:
            self.settle()

    def settle(self) -> None:
        """Read the losses of the last steps; raises AttackError naming the first step whose loss is not finite."""
        pending, self._pending = self._pending, []
        losses = torch.stack(pending).tolist() if pending else []
        for step, loss in enumerate(losses, start=self.step - len(losses) + 1):
            if not math.isfinite(loss):
                raise AttackError(
                    f"training diverged: the loss of step {step} is {loss}; a lower learning rate may help"
                )
            self.loss_sum += loss
            self.loss_n += 1
            if self.on_loss is not None:
                self.on_loss(step, loss)

    def take_loss(self) -> float:
        """Mean training loss of the steps since the last call, NaN if there are none."""
        self.settle()
        mean = self.loss_sum / self.loss_n if self.loss_n else math.nan
        self.loss_sum, self.loss_n = 0.0, 0
        return mean


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """What a resume point tells of the state, as JSON."""

    step: int
    best: Mapping[str, float] | None
    loss_sum: float
    loss_n: int
    seconds: float


def _momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Momentum buffers by parameter name; none before the first step."""
    buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in model.named_parameters()}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    average: nn.Module | None = None,
) -> None:
    """Write weights, their running average, batch norm statistics, momenta and `state` to `path`, atomically."""
    state.settle()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in _momenta(model, optimizer).items()}
    progress = {
        "step": state.step,
        "best": state.best,
        "loss_sum": state.loss_sum,
        "loss_n": state.loss_n,
        "seconds": state.seconds,
    }
    # Clones, because a safetensors file holds contiguous tensors that share no memory.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    said = json.dumps(progress)
    write_atomic(path, to_bytes(plain, metadata={"progress": said, SELF_HASH: _hash(said, plain)}))


def _hash(progress: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash of all that a resume point holds: names, types, shapes and bytes of the tensors, and the progress."""
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> TrainingState:
    """Read weights, their running average, batch norm statistics and momenta from `path` into place; returns its state.

    Raises CheckpointError for a file that is damaged or of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            progress = opened(metadata["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        # Those of versions before have no hash.
        if metadata.get(SELF_HASH) not in (None, _hash(metadata["progress"], tensors)):
            raise ValueError("damaged: it does not hold what its hash was made of")
        reached: _Progress = decode(_Progress, progress, "progress")
        if min(reached.step, reached.loss_n) < 0:
            raise ValueError(f"progress: expected counts, got step {reached.step} and loss_n {reached.loss_n}")
        if reached.best is not None and not reached.best.keys() >= {"step", "ifgsm5"}:
            raise ValueError("progress.best: expected a row of curves.csv")
        state = TrainingState(
            step=reached.step,
            best=progress["best"],  # its step is a whole number
            loss_sum=reached.loss_sum,
            loss_n=reached.loss_n,
            seconds_before=reached.seconds,
        )
        for part, module in (("model.", model), ("average.", average)):
            if module is not None:
                found = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
                module.load_state_dict(found)
        for name, parameter in model.named_parameters():
            if (momentum := tensors.get(f"momentum.{name}")) is None:
                continue
            if momentum.shape != parameter.shape or momentum.dtype != parameter.dtype:
                raise ValueError(f"momentum.{name} is {momentum.dtype} {tuple(momentum.shape)}")
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum)
            optimizer.state[parameter]["momentum_buffer"] = buffer
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is not a resume point of this run ({reason}): delete it, and `ensemble-bench train --resume` "
            "starts over"
        ) from None
    return state
