"""Networks compiled for attacks, whose batches have every size up to a full one."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench.models.ensemble import INTERFACE

# CUDA graphs are recorded for each size of a batch: on a GPU batches are padded to these and the powers of 2 above.
SMALLEST = 32


class Compiled(nn.Module):
    """`network` by torch.compile, for any number of images; on CUDA replayed as CUDA graphs.

    The first call takes seconds or more. Raises whatever torch.compile raises, such as for a missing compiler.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.on_cuda = any(p.is_cuda for p in network.parameters())
        self.run = torch.compile(network, mode="reduce-overhead" if self.on_cuda else None)

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Logits of the network."""
        rows = len(x)
        if self.on_cuda:
            x = F.pad(x, (0, 0) * (x.dim() - 1) + (0, padded(rows) - rows))
        else:
            torch._dynamo.maybe_mark_dynamic(x, 0)
        logits: Tensor = self.run(x)
        # A copy: the next replay of a CUDA graph writes where this one did.
        return logits[:rows].clone() if self.on_cuda else logits


def padded(rows: int) -> int:
    """The least power of 2 that is at least `rows` and SMALLEST."""
    return max(SMALLEST, 1 << (rows - 1).bit_length())


def compiled(network: nn.Module) -> nn.Module:
    """`network`, of an ensemble every member and the gate, compiled at the first call."""
    if not all(hasattr(network, name) for name in INTERFACE):
        return Compiled(network)
    twin = copy.copy(network)
    twin._modules = dict(network._modules)
    twin.members = nn.ModuleList(compiled(member) for member in network.members)  # type: ignore[union-attr]
    if network.gate is not None:
        twin.gate = Compiled(network.gate)  # type: ignore[arg-type]
    return twin
