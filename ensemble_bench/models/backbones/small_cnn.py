"""A small network for the embedded 8x8 digits, which trains adversarially within seconds on a CPU."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with batch norm and a linear layer, 12,722 parameters at `width` 1."""

    def __init__(self, *, width: float = 1.0, classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        # 28, not 32: if two layers rounded at the same widths, no width would meet a budget within a percent.
        a, b, c = (round(base * width) for base in (16, 28, 32))
        self.conv1 = nn.Conv2d(in_channels, a, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.conv3 = nn.Conv2d(b, c, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(c)
        self.linear = nn.Linear(c, classes)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of normalised images."""
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = F.relu(self.bn2(self.conv2(h)), inplace=True)
        h = F.relu(self.bn3(self.conv3(h)), inplace=True)
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
