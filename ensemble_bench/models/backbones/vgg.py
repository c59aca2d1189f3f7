"""VGG16 with batch norm for small images (Simonyan & Zisserman 2014), the second surrogate of the black-box set."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _layers(in_channels: int, widths: list[int]) -> Iterator[nn.Module]:
    for channels in widths:
        # No bias: the batch norm that follows would only subtract it again.
        yield nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        yield nn.BatchNorm2d(channels)
        yield nn.ReLU(inplace=True)
        in_channels = channels


class VGG16BN(nn.Module):
    """Thirteen 3x3 convolutions in five groups, each group followed by 2x2 max pooling, then one linear layer.

    `width` multiplies the channels. Images smaller than 32x32 skip the poolings that would leave nothing; of larger
    ones the mean over what is left is taken, 7x7 of 224x224.
    """

    def __init__(self, *, width: float = 1.0, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        groups = [[round(base * width) for base in group] for group in GROUPS]
        entries = [in_channels, *(group[-1] for group in groups)]
        self.groups = nn.ModuleList(
            nn.Sequential(*_layers(entry, group)) for entry, group in zip(entries, groups, strict=False)
        )
        self.linear = nn.Linear(entries[-1], classes)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of normalised images."""
        for group in self.groups:
            x = group(x)
            if min(x.shape[2:]) > 1:
                x = F.max_pool2d(x, 2)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits
