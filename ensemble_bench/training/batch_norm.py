"""Batch norm of a batch that several processes share, with the statistics of the whole batch."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def share(model: nn.Module, device: torch.device) -> None:
    """Let batch norm in `model`, in train mode, take its statistics over the blocks of all processes, of equal size.

    Parameters and buffers stay, and so do their names. On a GPU it becomes PyTorch's SyncBatchNorm, which is fused but
    refuses to run on a processor.
    """
    if device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SharedBatchNorm(child))


class SharedBatchNorm(_BatchNorm):
    """Batch norm with the parameters, buffers and settings of `like`; in eval mode it computes as any other."""

    def __init__(self, like: _BatchNorm) -> None:
        super().__init__(
            like.num_features,
            eps=like.eps,
            momentum=like.momentum,
            affine=like.affine,
            track_running_stats=like.track_running_stats,
        )
        for name, tensor in (*like.named_parameters(), *like.named_buffers()):
            setattr(self, name, tensor)
        self.training = like.training

    def _check_input_dim(self, input: Tensor) -> None:
        """Take images and features alike: the module that this one replaces had checked."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a block, float32 inside also under autocast, and update the running statistics."""
        if not self.training:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        mean = _average(x.mean(axes))
        centred = x - mean.view(shape)
        variance = _average(centred.square().mean(axes))
        self._update(mean.detach(), variance.detach(), x.numel() // x.shape[1] * distributed.get_world_size())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale.view(shape)
        if self.affine:
            normalised = normalised + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Move the running statistics towards those of this batch, whose unbiased variance is of `n` values."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        # PyTorch's rule: without a momentum, the plain mean of all batches so far.
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * n / (n - 1), momentum)


class _Sum(torch.autograd.Function):
    """Sum over the processes. It enters the loss of each of them, so its gradient is the sum of all of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(value: Tensor) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def _average(value: Tensor) -> Tensor:
    """Mean over the processes, through which gradients flow back to all of them."""
    total: Tensor = _Sum.apply(value)
    return total / distributed.get_world_size()
