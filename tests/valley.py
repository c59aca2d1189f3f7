"""A model on which the quality of an attack shows: a long, narrow valley whose bottom lies in the ball."""

import torch
from torch import Tensor, nn

from ensemble_bench import ThreatModel

PIXELS = 32
CENTRE = 0.5
STEEPEST = 300.0
THREATS = {"linf": ThreatModel(eps=0.1), "l2": ThreatModel(norm="l2", eps=0.34)}
# So deep is the hole at the bottom of the valley: Auto-PGD of 100 steps finds it from about half of the images.
DEPTH = {"linf": 0.046, "l2": 0.0057}


class Valley(nn.Module):
    """Logits 0, depth − uᵀHu and a far lower one, u = x − ½: wrong only near the middle, in a hole that H makes narrow.

    H has curvatures from 1 to 300 along random axes, so that steps along the gradient cross the valley and hardly move
    along it: steps, momentum and a step size that shrinks in time all count.
    """

    def __init__(self, depth: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        axes, _ = torch.linalg.qr(torch.randn(PIXELS, PIXELS, generator=generator))
        curvature = torch.logspace(0, torch.tensor(STEEPEST).log10().item(), PIXELS)
        self.root = nn.Parameter(axes * curvature.sqrt()[:, None])
        # A third class, whose logit varies: else the ratio of the DLR would only scale the margin.
        self.slope = nn.Parameter(10 * torch.randn(PIXELS, generator=generator) / PIXELS**0.5)
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        u = x.flatten(1) - CENTRE
        hole = self.depth - (u @ self.root.T).square().sum(dim=1)
        return torch.stack([torch.zeros_like(hole), hole, u @ self.slope - 30], dim=1)


def valley(norm: str, n: int, *, depth: float | None = None) -> tuple[Valley, Tensor, Tensor, ThreatModel]:
    """The model, `n` images of class 0 whose ball holds the bottom, their labels and the threat.

    Every one of them can be broken, by CENTRE. Weaker attacks than Auto-PGD need a hole of more `depth`. The images'
    noise has a seed that no attack starts from.
    """
    threat = THREATS[norm]
    noise = torch.randn(n, 1, 1, PIXELS, generator=torch.Generator().manual_seed(2003_01690))
    on_the_sphere, in_the_cube = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1), torch.erf(noise / 2**0.5)
    away = on_the_sphere if norm == "l2" else in_the_cube
    return (
        Valley(depth or DEPTH[norm]).eval(),
        CENTRE + 0.9 * threat.eps * away,
        torch.zeros(n, dtype=torch.int64),
        threat,
    )
