"""The gating network of a gated ensemble: from an image to the weight of each member."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Gate(nn.Module):
    """Two strided convolutions and a linear layer to one logit a member.

    Kept small on purpose, a few thousand parameters: the members' budget must not move into the gate.
    """

    def __init__(self, *, members: int, in_channels: int = 3, channels: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        self.linear = nn.Linear(2 * channels, members)

    def start_uniform(self) -> None:
        """Zero the last layer, so that training starts from the plain average."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch member"]:
        """Gate logits; the ensemble takes their softmax."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
