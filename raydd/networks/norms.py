"""The norms that follow convolutions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from torch import nn

from raydd.networks.config import GROUPS, NetworkConfig


def norm(config: NetworkConfig, channels: int, size: tuple[int, int] | None = None) -> nn.Module:
    """The norm of maps [C, H, W]; its H and W where that is `layer`."""
    if config.norm == "layer":
        assert size is not None
        return nn.LayerNorm((channels, *size))
    return _NORMS[config.norm](channels)


def _instance_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels, channels)


_NORMS: Final[Mapping[str, Callable[[int], nn.Module]]] = {
    "instance": _instance_norm,
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, GROUPS),
    "none": nn.Identity,
}
