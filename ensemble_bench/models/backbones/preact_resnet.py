"""The 18-layer pre-activation residual network for small images (He et al. 2016, "Identity mappings")."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench.models.backbones.wide_resnet import stage, stem


class PreActResNet18(nn.Module):
    """Four stages of two pre-activation blocks with 64, 128, 256 and 512 times `width` channels (rounded).

    A `stride` of 2 or 4 makes images larger than 32x32 smaller first, as in `WideResNet`.
    """

    def __init__(self, *, width: float = 1.0, classes: int = 10, in_channels: int = 3, stride: int = 1) -> None:
        super().__init__()
        a, b, c, d = (round(base * width) for base in (64, 128, 256, 512))
        self.stem = stem(in_channels, a, stride)
        self.stages = nn.Sequential(stage(2, a, a, 1), stage(2, a, b, 2), stage(2, b, c, 2), stage(2, c, d, 2))
        self.bn = nn.BatchNorm2d(d)
        self.linear = nn.Linear(d, classes)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of normalised images."""
        h = F.relu(self.bn(self.stages(self.stem(x))), inplace=True)
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
