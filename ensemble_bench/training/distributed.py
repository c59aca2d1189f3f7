"""One training shared by several processes: each takes a block of every batch, and all hold the same weights.

`accelerate launch` starts the processes; Accelerate joins them and wraps the model in DistributedDataParallel, which
averages the gradients. Process 0 alone validates, writes files and reports. The result is that of one process, but for
the order of floating-point sums. A process by itself is `Processes`, which needs no Accelerate.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ensemble_bench.errors import EnsembleBenchError, InvalidValueError
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.progress import Progress, silent
from ensemble_bench.training import batch_norm, interrupts, launched
from ensemble_bench.training.hardware import resolve_device
from ensemble_bench.training.objectives import Objective
from ensemble_bench.training.plan import TrainingPlan, differences

T = TypeVar("T")
# Process 0 may validate for long while the others wait for it.
PATIENCE = timedelta(hours=3)
# To agree on signals every process has to read a number from its device: a GPU would wait for it in every step.
STEPS_BETWEEN_SIGNALS = {"cpu": 1, "cuda": 20}


class OtherProcessError(EnsembleBenchError):
    """Another of the processes that share a training failed; the message says which, and why."""


class Processes:
    """The processes that share a training: in this class the only one, a subclass where there are more."""

    rank = 0
    count = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def part(self) -> tuple[int, int]:
        """Number of this process's block of a batch, and how many there are."""
        return self.rank, self.count

    def block(self, batch: Tensor) -> Tensor:
        """The images of `batch`, along its first axis, that this process learns from."""
        n = len(batch) // self.count
        return batch[self.rank * n : (self.rank + 1) * n]

    def check_batch_size(self, batch_size: int) -> None:
        """Raise InvalidValueError unless every process gets a block of the same size."""

    def share(self, model: nn.Module) -> None:
        """Let batch norm in `model` use the statistics of whole batches."""

    def through(self, objective: Objective, model: Ensemble, *, terms: int) -> Objective:
        """`objective`, of so many terms, on a block; gradients that follow are means over all blocks."""
        return objective

    def mean(self, loss: Tensor) -> Tensor:
        """Mean of a value over the processes."""
        return loss

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns; where it fails in one process, it fails in all."""
        return work()

    def in_turn(self, work: Callable[[], T]) -> T:
        """`together`, the first process of every machine before its others, which find what that one downloaded."""
        return work()

    def on_main(self, work: Callable[[], T], *, interruptible: bool = False) -> T:
        """What `work` returned or raised in process 0, in all of them; only where it may be is it interrupted."""
        return work()

    def reports(self, progress: Progress) -> Progress:
        """`progress` in process 0, silence in the others."""
        return progress

    def holding_signals(self) -> AbstractContextManager[None]:
        """Let Ctrl-C and SIGTERM wait inside the block for `handle_signals`."""
        return nullcontext()

    def handle_signals(self, step: int | None = None) -> None:
        """Raise KeyboardInterrupt in all processes if a signal waits in one of them; not after every step on a GPU."""


def join(device: str | torch.device | None) -> Processes:
    """The processes that were started with this one, on devices of the kind of `device`, by default GPUs if there are.

    Raises InvalidValueError for a device that this machine lacks, a certain GPU for several processes, or where
    Accelerate is missing.
    """
    if launched.count() == 1:
        return Processes(resolve_device(device))
    try:
        import accelerate  # noqa: F401 - asked for once, by name
    except ModuleNotFoundError as error:
        raise InvalidValueError(
            f"{launched.count()} processes were started, and to train together they need {error.name}: "
            "pip install 'ensemble-bench[cluster]'"
        ) from None
    return _Several(device)


def check_shared(plan: TrainingPlan, processes: Processes) -> None:
    """Raise InvalidValueError if the batch cannot be shared, or another process would train otherwise."""
    first = processes.on_main(plan.as_dict)

    def check() -> None:
        if different := differences(plan.as_dict(), first):
            raise InvalidValueError(f"processes disagree: {different[0].replace(' there', ' in process 0')}")
        processes.check_batch_size(plan.settings.batch_size)

    processes.together(check)


def leave() -> None:
    """Part from the other processes, when all work is done or has failed in all of them.

    A thread of gloo that still lets go of a tensor while Python ends aborts the process. Those threads end with the
    process group, whose last owners are wrapped models that wait for the garbage collector.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


class _Several(Processes):
    """This process among several that Accelerate has joined."""

    def __init__(self, device: str | torch.device | None) -> None:
        import torch._dynamo  # before there is a process group: it would keep one that it found, and DDP imports it
        from accelerate import Accelerator, InitProcessGroupKwargs

        cpu = _on_processors(device)
        self._accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="no",  # precision is the preset's, whatever accelerate is configured to
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        super().__init__(torch.device("cpu") if cpu else self._accelerator.device)
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self._held: interrupts.Held | None = None

    def check_batch_size(self, batch_size: int) -> None:
        if batch_size % self.count:
            raise InvalidValueError(
                f"batch_size is {batch_size}: {self.count} processes share a batch of a multiple of {self.count}"
            )

    def share(self, model: nn.Module) -> None:
        batch_norm.share(model, self.device)

    def through(self, objective: Objective, model: Ensemble, *, terms: int) -> Objective:
        wrapped = self._accelerator.prepare(_Terms(model))

        def shared(model: Ensemble, x: Tensor, x_adv: Tensor | None, y: Tensor) -> Iterator[Tensor]:
            given = objective(model, x, x_adv, y)
            for term in range(1, terms + 1):
                # Gradients add up, so one exchange behind the last term is enough.
                with nullcontext() if term == terms else self._accelerator.no_sync(wrapped):
                    yield wrapped(given)
            if next(given, None) is not None:
                raise RuntimeError(f"the objective has more than {terms} terms: their gradients were not exchanged")

        return shared

    def mean(self, loss: Tensor) -> Tensor:
        return cast(Tensor, self._accelerator.reduce(loss, "mean"))

    def together(self, work: Callable[[], T]) -> T:
        return self._share(work)[0]

    def in_turn(self, work: Callable[[], T]) -> T:
        first = launched.local_rank() == 0
        done = self.together(lambda: work() if first else None)
        later = self.together(lambda: None if first else work())
        return cast(T, done if first else later)

    def on_main(self, work: Callable[[], T], *, interruptible: bool = False) -> T:
        def mine() -> T | None:
            if self.rank != 0:
                return None
            with self._held.lifted() if interruptible and self._held else nullcontext():
                return work()

        return cast(T, self._share(mine, tell=True)[1])

    def _share(self, work: Callable[[], T], *, tell: bool = False) -> tuple[T, Any]:
        """What `work` returns here and, with `tell`, in process 0; raises in all processes if it fails in one."""
        from accelerate.utils import gather_object

        result: Any = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        outcomes = gather_object([(_told(failure), result if tell else None)])
        if failure is not None:
            raise failure
        for rank, (told, _) in enumerate(outcomes):
            if isinstance(told, int):
                self._interrupt(told)
            if told is not None:
                raise OtherProcessError(f"process {rank}: {told}")
        return result, outcomes[0][1]

    def reports(self, progress: Progress) -> Progress:
        if self.rank != 0:
            return silent

        def report(label: str, done: int, total: int, **fields: float | str) -> None:
            try:
                progress(label, done, total, **fields)
            except KeyboardInterrupt:
                # It came from the callback: the others hear of it as of a signal.
                if self._held is None:
                    raise
                self._held.note(interrupts.SIGINT)

        return report

    @contextmanager
    def holding_signals(self) -> Iterator[None]:
        with interrupts.held() as self._held:
            try:
                yield
            finally:
                self._held = None

    def handle_signals(self, step: int | None = None) -> None:
        if step is not None and step % STEPS_BETWEEN_SIGNALS.get(self.device.type, 1):
            return
        mine = self._held.waiting if self._held else 0
        waiting = self._accelerator.gather(torch.tensor([mine], device=self.device))
        if number := int(waiting.max()):
            self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        """Raise as at a signal of this number."""
        if self._held is not None:
            self._held.handle(number)
        raise KeyboardInterrupt


class _Terms(nn.Module):
    """The next term of an objective as a forward pass of the weights, which DistributedDataParallel can follow.

    The model itself is not wrapped, so that attacks and validation exchange nothing. Its buffers are not among these:
    they are the same in all processes by themselves.
    """

    def __init__(self, model: Ensemble) -> None:
        super().__init__()
        self.weights = nn.ParameterList(model.parameters())

    def forward(self, terms: Iterator[Tensor]) -> Tensor:
        return next(terms)


def _told(failure: BaseException | None) -> str | int | None:
    """What the other processes hear of a failure: a message, or the number of a signal."""
    if failure is None or isinstance(failure, EnsembleBenchError):
        return None if failure is None else " ".join(str(failure).split())
    if isinstance(failure, KeyboardInterrupt):
        return interrupts.SIGTERM if isinstance(failure, interrupts.Terminated) else interrupts.SIGINT
    return " ".join(f"{type(failure).__name__}: {failure}".split())


def _on_processors(device: str | torch.device | None) -> bool:
    """Whether the processes compute on processors; raises InvalidValueError for devices that they cannot share."""
    forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    kind = torch.device("cpu") if device is None and forced else resolve_device(device)
    if kind.type == "cpu":
        return True
    if kind.index is not None:
        raise InvalidValueError(
            f"device is {str(device)!r}: {launched.count()} processes take a GPU each, choose cuda or cpu"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > torch.cuda.device_count():
        raise InvalidValueError(
            f"{here} processes were started on this machine, which has {torch.cuda.device_count()} CUDA devices: "
            "each needs one of its own, or choose --device cpu"
        )
    return False
