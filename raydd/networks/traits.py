"""What configs and protocols need to know of a network, without building it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Shape = tuple[int, int, int]
"""C, H, W."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Of one architecture."""

    takes: tuple[str, ...] = ()
    """The fields of `NetworkConfig` that it goes by, among depth, width, norm, stem, activation, pooling, growth and
    init. Its label in tables names them. All from stem on are refused where they are not among them."""
    norms: tuple[str, ...] = ("instance", "batch", "none")
    """What `norm` may be."""
    smallest_side: int = 1
    """In pixels: what leaves one after the last pooling."""
    student_lr: float = 1e-3
    """The step size of its students under RDED's and DELT's protocols."""


@dataclass(frozen=True, kw_only=True)
class Architecture(Traits):
    """A network that another package adds, under the name of its entry point in `raydd.networks`."""

    body: Callable[[Any, Shape], nn.Module]
    """From a `NetworkConfig` and the shape of images to what turns them [B, C, H, W] into features; a linear layer
    follows. Parameters have torch's initialisation, drawn from the global generator."""
