"""Counter-based randomness: an image's noise depends on its id alone, never on its batch, its order or the device."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


def _key(*parts: object) -> int:
    """128-bit key of a stream, from what names it."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest(), "little")


def uniform(
    shape: tuple[int, ...], ids: Int64[Tensor, "batch"], *, seed: int, stream: str, restart: int = 0
) -> Float[Tensor, "batch *image"]:
    """Noise uniform in [-1, 1) of shape (batch, *shape), float32, on the CPU.

    The key of the Philox generator is (seed, stream, restart) and its counter starts at the image's id
    (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    key = _key(seed, stream, restart)
    noise = np.empty((len(ids), *shape), dtype=np.float32)
    for row, image in zip(noise, ids.tolist(), strict=True):
        # The id fills the counter's high word, so that the streams of two images never overlap.
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, image])).random(out=row, dtype=np.float32)
    return torch.from_numpy(noise).mul_(2).sub_(1)


def generator(device: torch.device | str = "cpu", *parts: object) -> torch.Generator:
    """Torch generator on `device` whose seed is a hash of `parts`, such as ("augment", seed, step)."""
    return torch.Generator(device=device).manual_seed(_key(*parts) >> 65)
