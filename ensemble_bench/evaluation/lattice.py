"""Images of 8 bits a pixel near adversarial ones: rounded onto the lattice k/255, inside the ball."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ensemble_bench.threat import ThreatModel

LEVELS = 255
# A float32 pixel times 255 is this far from the level that it means, at most; less than what `threat.check` allows.
SLACK = 1e-4


def eight_bit(
    x_adv: Float[Tensor, "batch *image"], x: Float[Tensor, "batch *image"], threat: ThreatModel
) -> tuple[UInt8[Tensor, "batch *image"], Bool[Tensor, "batch"]]:
    """Levels (0 to 255) of the images near `x_adv`, and whether each is within the ball around `x`.

    Under linf every pixel takes the level nearest to it inside the ball. Under l2 pixels take the nearest level, and as
    many as the ball demands the next one towards `x` instead, first those for which that is nearly as near. An image
    outside the ball is one of a ball that holds no lattice point there, of which eps is below half a level.
    """
    wanted, origin = LEVELS * x_adv.double(), LEVELS * x.double()
    reach = LEVELS * threat.eps
    levels = wanted.round()
    if threat.norm == "linf":
        low, high = (origin - reach - SLACK).ceil(), (origin + reach + SLACK).floor()
        levels = torch.where(low <= high, levels.maximum(low).minimum(high), origin.round())
    else:
        levels = _inside_l2(levels, wanted, origin, reach)
    levels = levels.clamp(0, LEVELS)
    inside = threat.distance(levels / LEVELS, x) <= threat.eps + SLACK / LEVELS
    return levels.to(torch.uint8), inside


def _inside_l2(levels: Tensor, wanted: Tensor, origin: Tensor, reach: float) -> Tensor:
    """Move as few pixels as needed one level towards the original, so that all are within `reach` of it."""
    shape = levels.shape
    levels, wanted, origin = levels.flatten(1), wanted.flatten(1), origin.flatten(1)
    other = levels - (levels - wanted).sign()
    gain = (levels - origin) ** 2 - (other - origin) ** 2
    # What a move adds to the rounding error, 0 for a pixel half way between two levels; never a move outwards.
    price = ((other - wanted).abs() - (levels - wanted).abs()).masked_fill(gain <= 0, torch.inf)
    excess = ((levels - origin) ** 2).sum(dim=1, keepdim=True) - reach**2
    cheapest = price.argsort(dim=1, stable=True)
    gained = gain.clamp_min(0).gather(1, cheapest).cumsum(dim=1)
    before = torch.cat([torch.zeros_like(excess), gained[:, :-1]], dim=1)
    moved = torch.zeros_like(levels, dtype=torch.bool).scatter(1, cheapest, before < excess)
    return torch.where(moved & (gain > 0), other, levels).view(shape)
