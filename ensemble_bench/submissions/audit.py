"""What a verifier asks a model beside its claims: did it learn the test images, and is it one that is published."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench.data import DataSource, ImageSet
from ensemble_bench.errors import AttackError, CheckpointError
from ensemble_bench.models import calling, checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import NamedWarning
from ensemble_bench.registry.terms import TEST, VALIDATION

FITS_TEST = "fits-test-images"
LEVEL = 1e-4
"""False-alarm rate of `Fit`: of so many honest models one is flagged."""
BATCH = 500
PROBES = 32
"""Fixed test images on which two models are compared."""
SAME = 1e-3
"""Relative difference of logits below which two models are one. Networks of two seeds differ by about 1."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Images that a model classifies correctly: of the test split, and of the validation split, which nobody trains on.

    The p-value is Fisher's exact one, one-sided: the chance of so many more right among the test images if a model is
    as often right on either split.
    """

    test: tuple[int, int]
    validation: tuple[int, int]
    p_value: float

    @property
    def flags(self) -> tuple[NamedWarning, ...]:
        """The flag of a model that fits the test images too well for chance."""
        if self.p_value >= LEVEL:
            return ()
        right, n = self.test
        known, m = self.validation
        message = (
            f"right on {right} of {n} test images, but on {known} of {m} validation images (p = {self.p_value:.1g})"
        )
        return (NamedWarning(name=FITS_TEST, message=message),)


def fit(test: tuple[int, int], validation: tuple[int, int]) -> Fit:
    """Compare (right, images) of the two splits."""
    from scipy.stats import hypergeom

    (right, n), (known, m) = test, validation
    p_value = float(hypergeom.sf(right - 1, n + m, right + known, n))
    return Fit(test=test, validation=validation, p_value=p_value)


def fit_of(model: nn.Module, source: DataSource, device: torch.device) -> Fit:
    """How well a model fits both splits of a data set, without any attack; raises AttackError as `logits_of`."""
    return fit(*((_right(model, source.split(name), device), len(source.split(name))) for name in (TEST, VALIDATION)))


def twin_of(model: nn.Module, name: str, source: DataSource, root: Path, device: torch.device) -> str | None:
    """Name of another model, published in `root` on this data set, that answers PROBES test images as `model` does.

    Scaled logits are the same answers: they decide alike, also between adversarial images. None where there is none; a
    published model that does not load, or gives no finite logits, is none. Raises AttackError as `logits_of`.
    """
    x, _ = source.split(TEST).batch(slice(PROBES))
    own = logits_of(model, x, device)
    for other, path in _published(root / source.name):
        if other == name:
            continue
        try:
            theirs = logits_of(checkpoint.load(path), x, device)
        except (CheckpointError, AttackError) as error:
            logging.getLogger("ensemble_bench").warning("not compared with %s: %s", other, error)
            continue
        if theirs.shape == own.shape and are_same(own, theirs):
            return other
    return None


def are_same(a: Float[Tensor, "batch class"], b: Float[Tensor, "batch class"]) -> bool:
    """Whether two models' logits are the same, but for one factor above 0 and an addend for each image."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    length = b.square().sum()
    if length == 0 or a.square().sum() == 0:
        return bool(length == a.square().sum())
    factor = (a * b).sum() / length
    return bool(factor > 0 and (a - factor * b).norm() < SAME * a.norm())


def logits_of(model: nn.Module, x: Float[Tensor, "batch channel row column"], device: torch.device) -> Tensor:
    """Logits in float64, on the processor, asked as attacks ask; of an ensemble that draws a member, of their mean.

    Raises AttackError unless they are finite and one row an image.
    """
    if isinstance(model, Ensemble) and model.aggregation == "draw":
        model = model.aggregate_as("prob")
    with calling.frozen(model.to(device)), torch.no_grad():
        return calling.logits_of(model, x.to(device)).double().cpu()


def _right(model: nn.Module, images: ImageSet, device: torch.device) -> int:
    right = 0
    for start in range(0, len(images), BATCH):
        x, y = images.batch(slice(start, start + BATCH))
        right += int((logits_of(model, x, device).argmax(1) == y).sum())
    return right


def _published(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob(f"*/weights/*/*{checkpoint.SUFFIX}")):
        yield path.parent.name, path
