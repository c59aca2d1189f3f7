"""Threat models: where an adversary may move an image, and the geometry of moving there."""

from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.records.threat import NORMS, Threat

LARGEST = 1e6
"""Of an eps: no two images are farther apart."""


def _norms(v: Tensor) -> Tensor:
    """Euclidean norm of every image, shaped to broadcast against the images."""
    norms: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1).clamp_min(1e-12)
    return norms.view(-1, *[1] * (v.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class ThreatModel(Threat):
    """All images within `eps` of the clean one in `norm` ("linf" or "l2"), inside the image box [0, 1].

    `eps` is in units of the pixel range: 8/255, never 8. Raises InvalidValueError for an unknown norm or
    an eps that is not a positive number (linf: at most 1).
    """

    norm: str = "linf"
    eps: float = 8 / 255

    def __post_init__(self) -> None:
        if not isinstance(self.norm, str) or self.norm not in NORMS:
            raise InvalidValueError(f"norm is {self.norm!r}: choose from {', '.join(NORMS)}")
        if not isinstance(self.eps, Real) or isinstance(self.eps, bool) or not 0 < self.eps <= LARGEST:
            raise InvalidValueError(
                f"eps is {self.eps!r}: it must be a positive number up to {LARGEST:,.0f}, such as 8/255"
            )
        if self.norm == "linf" and self.eps > 1:
            raise InvalidValueError(
                f"eps is {self.eps!r}: images are in [0, 1], so linf eps is at most 1 (8 means 8/255?)"
            )

    def random_start(self, x: Float[Tensor, "batch *image"], noise: Float[Tensor, "batch *image"]) -> Tensor:
        """Point of the ball around `x` that `noise`, uniform in [-1, 1], selects (linf: uniform in the ball)."""
        if self.norm == "linf":
            return self.project(x + self.eps * noise, x)
        # A random direction at a random radius: dense near the centre, which is where l2 attacks start from.
        radius = noise.flatten(1)[:, 0].abs().view(-1, *[1] * (x.dim() - 1))
        return self.project(x + self.eps * radius * noise / _norms(noise), x)

    def steepest(self, grad: Float[Tensor, "batch *image"]) -> Tensor:
        """Unit step that raises a loss of gradient `grad` fastest under the norm (zero where `grad` is zero)."""
        if self.norm == "linf":
            return grad.sign()
        # Confident models have gradients so small that their squares vanish: scaled first, they still point somewhere.
        largest = grad.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(grad.dtype).tiny)
        scaled = grad / largest.view(-1, *[1] * (grad.dim() - 1))
        return scaled / _norms(scaled)

    def project(self, x_adv: Float[Tensor, "batch *image"], x: Float[Tensor, "batch *image"]) -> Tensor:
        """Point inside the ball around `x` and the image box [0, 1] near `x_adv` (linf: the nearest one)."""
        if self.norm == "linf":
            return torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps).clamp(0.0, 1.0)
        # Clamping to the box moves every pixel towards x, so the ball still holds afterwards.
        delta = x_adv - x
        return (x + delta * (self.eps / _norms(delta)).clamp(max=1.0)).clamp(0.0, 1.0)

    def distance(
        self, x_adv: Float[Tensor, "batch *image"], x: Float[Tensor, "batch *image"]
    ) -> Float[Tensor, "batch"]:
        """Distance of every image to its clean one in the norm, in float64."""
        delta = (x_adv.double() - x.double()).flatten(1)
        return delta.abs().amax(dim=1) if self.norm == "linf" else delta.norm(dim=1)

    def check(self, x_adv: Float[Tensor, "batch *image"], x: Float[Tensor, "batch *image"]) -> None:
        """Raise AttackError unless every `x_adv` is finite, in [0, 1] and within eps of `x`; never clips."""
        if x_adv.shape != x.shape:
            raise AttackError(f"x_adv has shape {tuple(x_adv.shape)}, its images have {tuple(x.shape)}")
        if not x_adv.isfinite().all():
            raise AttackError("x_adv holds NaN or infinite pixels")
        if x_adv.numel() == 0:
            return
        low, high = x_adv.min().item(), x_adv.max().item()
        if low < 0 or high > 1:
            raise AttackError(f"x_adv leaves the image box [0, 1]: its pixels span [{low:.6g}, {high:.6g}]")
        # x ± eps is rounded to float32 (half an ulp of 1), and an l2 norm sums such errors.
        tolerance = 1e-6 if self.norm == "linf" else 1e-5 * max(1.0, self.eps)
        worst = self.distance(x_adv, x).max().item()
        if worst > self.eps + tolerance:
            raise AttackError(f"x_adv leaves the {self.norm} ball: distance {worst:.6g}, eps {self.eps:.6g}")
