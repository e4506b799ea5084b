"""WRN-16-2, a residual network of few layers for small images (Zagoruyko and Komodakis, BMVC 2016).

Norm and ReLU come before each convolution; three stages of two blocks, with 32, 64 and 128 channels, of which the
second and the third halve the image; then a norm, ReLU, and the mean of each map.

Letters: B batch, C H W.
"""

from torch import Tensor, nn

from raydd.networks.config import NetworkConfig
from raydd.networks.norms import norm
from raydd.networks.stems import extra_stride
from raydd.networks.traits import Shape


class _Block(nn.Module):
    """Two convolutions beside a shortcut: one more, of what the first norm made, where the shape changes."""

    def __init__(self, config: NetworkConfig, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(config, before), norm(config, width)
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if before == width else nn.Conv2d(before, width, 1, stride=stride, bias=False)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        active = self.norm1(maps_BCHW).relu()
        inner: Tensor = self.conv2(self.norm2(self.conv1(active)).relu())
        return inner + (maps_BCHW if self.shortcut is None else self.shortcut(active))


def wide_resnet(config: NetworkConfig, shape: Shape) -> nn.Module:
    """The body of WRN-16-2. Images of 64 pixels or more are halved by the first convolution."""
    first = nn.Conv2d(shape[0], 16, 3, stride=extra_stride(shape), padding=1, bias=False)
    blocks, before = nn.Sequential(), 16
    for width, stride in ((32, 1), (64, 2), (128, 2)):
        blocks.append(_Block(config, before, width, stride)).append(_Block(config, width, width, 1))
        before = width
    return nn.Sequential(first, blocks, norm(config, before), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
