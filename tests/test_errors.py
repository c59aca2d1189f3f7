"""What counts as memory that ran out is what PyTorch raises when it does."""

import pytest
import torch

from ensemble_bench.errors import is_out_of_memory

BEYOND = 2**50  # more bytes than a process can have, so that nothing is taken


def test_the_processors_allocator_is_known_by_what_it_raises() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(BEYOND, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError()])
def test_so_are_others(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")]
)
def test_nothing_else_is(error: Exception) -> None:
    assert not is_out_of_memory(error)
