"""How images are taken in: by torchvision's first layers, or in the form for small images.

Letters: C H W.
"""

from torch import nn

from raydd.networks.config import NetworkConfig
from raydd.networks.traits import Shape


def extra_stride(shape: Shape) -> int:
    """What halves images of 64 pixels or more."""
    return 2 if min(shape[1:]) >= 64 else 1


def has_large_stem(config: NetworkConfig, shape: Shape) -> bool:
    """Whether a network of torchvision's takes images in as on ImageNet."""
    return min(shape[1:]) >= 128 if config.stem == "auto" else config.stem == "imagenet"


def first_convolution(config: NetworkConfig, shape: Shape, published: nn.Conv2d) -> nn.Conv2d:
    """The published first convolution for images of C channels; for small images it is 3x3, with stride 1.

    Under `stem: auto`, images of 64 pixels or more are halved.
    """
    width = published.out_channels
    if not has_large_stem(config, shape):
        stride = extra_stride(shape) if config.stem == "auto" else 1
        return nn.Conv2d(shape[0], width, 3, stride=stride, padding=1, bias=False)
    kernel, stride, padding = published.kernel_size[0], published.stride[0], int(published.padding[0])
    return nn.Conv2d(shape[0], width, kernel, stride=stride, padding=padding, bias=False)
