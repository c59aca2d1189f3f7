"""Training batches as a pure function of (seed, step): shuffled order, flips and crops; nothing to save or restore."""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

from ensemble_bench.data import DataSource, ImageSet
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.randomness import generator
from ensemble_bench.training.presets import TrainingSettings


@functools.lru_cache(maxsize=4)
def order(n: int, seed: int, epoch: int) -> Int64[Tensor, "n"]:
    """Return the order in which epoch `epoch` visits n images."""
    return torch.randperm(n, generator=generator("cpu", "order", seed, epoch))


def augment(
    images: Num[Tensor, "batch row column channel"], *, flip: bool, crop: int, generator: torch.Generator
) -> Num[Tensor, "batch row column channel"]:
    """Shift every image by up to `crop` pixels each way, and mirror half of them if `flip`.

    What lies beyond an edge is the image's own reflection, as for Wide ResNets (Zagoruyko & Komodakis 2016, section
    3). One gather for the whole batch; every image draws its own shift and flip.
    """
    if not flip and not crop:
        return images
    batch, height, width, _ = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    rows = torch.arange(height, device=device) + draw(2 * crop + 1) - crop
    columns = torch.arange(width, device=device).expand(batch, width)
    if flip:
        columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    columns = columns + draw(2 * crop + 1) - crop
    rows, columns = _reflected(rows, height), _reflected(columns, width)
    return images[torch.arange(batch, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflected(index: Int64[Tensor, "batch n"], size: int) -> Int64[Tensor, "batch n"]:
    """Indices of an axis of `size` pixels, those beyond its ends mirrored at the outermost pixel: −1 becomes 1."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """Batches of a training set that lives on the training device; the last, incomplete one of an epoch is left out.

    Images, of pixels in [0, scale], are held channels-last, the layout that convolutions run fastest in.
    """

    images: Num[Tensor, "n row column channel"]
    labels: Int64[Tensor, "n"]
    scale: int
    batch_size: int
    seed: int
    flip: bool
    crop: int

    @classmethod
    def of(
        cls, data: ImageSet, *, batch_size: int, seed: int, device: torch.device, flip: bool = False, crop: int = 0
    ) -> "Batches":
        """Move `data` to `device`; raises InvalidValueError for a batch size that is not in 2 … len(data)."""
        if not 2 <= batch_size <= len(data):  # batch norm needs two images
            raise InvalidValueError(
                f"batch size is {batch_size}: choose 2 to {len(data)}, the size of the training set"
            )
        return cls(
            images=data.images.to(device).permute(0, 2, 3, 1).contiguous(),
            labels=data.labels.to(device),
            scale=data.scale,
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            crop=crop,
        )

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        return len(self.labels) // self.batch_size

    def at(self, step: int) -> tuple[Float[Tensor, "batch channel row column"], Int64[Tensor, "batch"]]:
        """Return batch (x, y) of training step `step`, x float32 in [0, 1]."""
        epoch, position = divmod(step, self.per_epoch)
        first = position * self.batch_size
        device = self.labels.device
        rows = order(len(self.labels), self.seed, epoch)[first : first + self.batch_size].to(device)
        noise = generator(device, "augment", self.seed, step)
        images = augment(self.images[rows], flip=self.flip, crop=self.crop, generator=noise)
        return images.permute(0, 3, 1, 2).to(torch.float32).div_(self.scale), self.labels[rows]


def batches_of(source: DataSource, settings: TrainingSettings, seed: int, device: torch.device) -> Batches:
    """Training batches of a data set, of the size and with the augmentation in `settings`."""
    return Batches.of(
        source.split("train"),
        batch_size=settings.batch_size,
        seed=seed,
        device=device,
        flip=settings.flip,
        crop=settings.crop,
    )
