"""What the loop of the engine stands on: parts of a task, sizes of batches, and what a worker proposes."""

import math

import pytest
import torch
from small_models import images, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel
from ensemble_bench.attacks.engine import Budget, Task, Worker, cosine

THREAT = ThreatModel(eps=0.1)


@pytest.mark.parametrize("targets", [None, torch.arange(12).view(4, 3)])
def test_a_part_of_a_task_has_the_rows_of_everything(targets: Tensor | None) -> None:
    x, y = images(4)
    budget = Budget(seed=5)
    model, ids = trained(), torch.tensor([7, 8, 9, 10])
    whole = Task(
        model=model, x=x, y=y, threat=THREAT, ids=ids, budget=budget, on_done=None, targets=targets, twin=model
    )
    part = whole.of(torch.tensor([3, 1]))
    assert torch.equal(part.x, torch.stack([x[3], x[1]]))
    assert part.y.tolist() == [y[3], y[1]]
    assert part.ids.tolist() == [10, 8]
    assert (None if part.targets is None else part.targets.tolist()) == (
        None if targets is None else [[9, 10, 11], [3, 4, 5]]
    )
    assert (part.model, part.twin, part.threat, part.budget) == (model, model, THREAT, budget)


def test_a_batch_is_larger_on_a_gpu_unless_a_size_is_given() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert Budget.on(cpu, seed=3, batch_size=None) == Budget(seed=3, batch_size=128, device=cpu)
    assert Budget.on(gpu, seed=0, batch_size=None).batch_size == 512
    assert Budget.on(gpu, seed=0, batch_size=7, precision="bf16", compile=True) == Budget(
        batch_size=7, precision="bf16", compile=True, device=gpu
    )


def test_in_bf16_an_image_within_rounding_of_the_boundary_is_decided_on() -> None:
    # Rounding is in proportion to an image's own range of logits, wherever that lies.
    near = torch.tensor([[1.0, 0.996, 0.0], [1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [1.0, 0.9, -50.0], [9.0, 8.9, 8.0]])
    state = {"x_adv": torch.zeros(5, 1), "y": torch.zeros(5, dtype=torch.int64)}

    def evaluate(_: nn.Module, x_adv: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return near + 0 * x_adv, x_adv[:, 0]

    worker = Worker(nn.Identity(), 8)
    assert worker.propose(evaluate, state, "float32")[0].tolist() == [False, False, True, False, False]
    assert worker.propose(evaluate, state, "bf16")[0].tolist() == [True, False, True, True, False]


def test_a_cosine_of_steps_goes_from_one_to_zero() -> None:
    found = cosine({"i": torch.tensor([0, 1, 2, 3, 4])}, 4)
    root = math.sqrt(0.5)
    torch.testing.assert_close(found, torch.tensor([1, (1 + root) / 2, 0.5, (1 - root) / 2, 0]).double())
