"""A network of another package: one convolution, whose largest answers at four places are the features."""

from typing import Final

from torch import nn

from raydd.networks.config import NetworkConfig
from raydd.networks.traits import Architecture, Shape


def body(config: NetworkConfig, shape: Shape) -> nn.Module:
    """The convolution, of as many channels as the config's width."""
    return nn.Sequential(nn.Conv2d(shape[0], config.width, 5, padding=2), nn.ReLU(), nn.AdaptiveMaxPool2d(2))


SHALLOW: Final = Architecture(body=body, takes=("width",), norms=("instance",), smallest_side=4, student_lr=2e-3)
