"""Wide residual networks (Zagoruyko & Komodakis 2016), the paper's backbone."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, added to a shortcut (He et al. 2016, "Identity mappings").

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel2 row2 column2"]:
        """Features of the next block."""
        h = F.relu(self.bn1(x), inplace=True)
        skip: Tensor = x if self.shortcut is None else self.shortcut(h)
        h = F.relu(self.bn2(self.conv1(h)), inplace=True)
        out: Tensor = skip + self.conv2(h)
        return out


def stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """`blocks` pre-activation blocks, of which the first changes channels and resolution."""
    first = PreActBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(PreActBlock(channels, channels, 1) for _ in range(blocks - 1)))


def stem(in_channels: int, channels: int, stride: int) -> nn.Module:
    """The first layer: a 3x3 convolution, which halves the sides at `stride` 2.

    At 4 a 7x7 convolution and a pooling halve them in turn, as in the ResNets for ImageNet (He et al. 2016).
    """
    if stride < 4:
        return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, stride=2, padding=1)
    )


class WideResNet(nn.Module):
    """WRN-`depth`-`width` without dropout.

    `depth` is 6n + 4 for n blocks a stage; the three stages have 16, 32 and 64 times `width` channels. `width` may be
    fractional (channels are rounded), which is how a parameter budget is matched. A `stride` of 2 or 4 makes images
    larger than 32x32 smaller first (see `stem`).
    """

    def __init__(
        self, *, depth: int = 28, width: float = 10.0, classes: int = 10, in_channels: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        first, second, third = (round(base * width) for base in (16, 32, 64))
        self.stem = stem(in_channels, 16, stride)
        self.stages = nn.Sequential(
            stage(blocks, 16, first, 1), stage(blocks, first, second, 2), stage(blocks, second, third, 2)
        )
        self.bn = nn.BatchNorm2d(third)
        self.linear = nn.Linear(third, classes)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of normalised images."""
        h = F.relu(self.bn(self.stages(self.stem(x))), inplace=True)
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
