"""The state of the images under attack, and operations on its rows."""

import math
from typing import Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Row-aligned tensors of the images under attack. Always "x", "y", "x_adv" and "i" (iterations done);
"clean_logits" (batch, class); "target" (batch) where the attack has one; "best_x", "best_loss" and "better" (x_adv is
the best so far) where it keeps its best iterate; and the tensors that its step rule adds."""


class Noise(Protocol):
    """Noise uniform in [-1, 1) of shape (batch, *shape) for the images at hand, the same in any batch.

    An attack that draws twice gives each draw a `label` of its own.
    """

    def __call__(self, shape: tuple[int, ...], label: str = "") -> Tensor: ...  # noqa: D102


def select(s: State, rows: Tensor | slice) -> State:
    """The same rows of everything in a state."""
    return {k: v[rows] for k, v in s.items()}


def concatenate(states: list[State]) -> State:
    """One state of the rows of all."""
    return {k: torch.cat([s[k] for s in states]) for k in states[0]}


def per_image(v: Tensor, like: Tensor) -> Tensor:
    """Shape (batch,) values to broadcast against images, in their dtype."""
    return v.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def cosine(s: State, steps: int) -> Tensor:
    """½(1 + cos(πt/T)) at the t-th of T steps of every image (batch): from 1 down to 0.

    In float64: a float32 cosine depends on its place in the batch.
    """
    return (1 + (s["i"].double() * math.pi / steps).cos()) / 2


def where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Rows of `a` where `mask` (batch,) holds, else rows of `b`."""
    return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)
