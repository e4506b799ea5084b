"""Whether an image keeps its class when it is mirrored, which pictures of things do, and letters do not.

Every image is recognised by the nearest other one, in thumbnails: once as it is, once mirrored left to right.

Letters: N images, F values of a thumbnail, C H W.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE: Final = 16
MOST: Final = 2_000
"""Images that are looked at."""
KEEPS: Final = 0.8
"""The part of what is recognised beyond chance that has to be recognised in a mirror, too."""


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """What was recognised, as fractions of the images."""

    upright: float
    mirrored: float
    chance: float
    """What guessing the most frequent class is right on."""

    @property
    def keeps_classes(self) -> bool:
        """Whether images may be mirrored: where nothing is recognised at all, nobody knows, and they are not."""
        seen = self.upright - self.chance
        return seen > 0 and self.mirrored - self.chance >= KEEPS * seen


def look_in_mirror(images_NCHW: Tensor, labels_N: Tensor) -> Mirrored:
    """Recognise images, and the same in a mirror, by their nearest others.

    Args:
        images_NCHW: float, two at least.
        labels_N: int64.
    """
    rows = torch.arange(0, len(labels_N), max(1, -(-len(labels_N) // MOST)))
    images, labels = images_NCHW[rows], labels_N[rows]
    upright, mirrored = _thumbnails(images), _thumbnails(images.flip(3))
    chance = float(labels.bincount().max()) / len(labels)
    return Mirrored(
        upright=_recognised(upright, upright, labels), mirrored=_recognised(mirrored, upright, labels), chance=chance
    )


def _thumbnails(images_NCHW: Tensor) -> Tensor:
    """[N, F], each of mean 0 and length 1."""
    small: Tensor = F.adaptive_avg_pool2d(images_NCHW.double(), SIDE).flatten(1)
    small = small - small.mean(1, keepdim=True)
    unit: Tensor = small / small.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit


def _recognised(asked_NF: Tensor, known_NF: Tensor, labels_N: Tensor) -> float:
    """How often the nearest image but the one that is asked for has the same label."""
    likeness_NN = asked_NF @ known_NF.T
    likeness_NN.fill_diagonal_(-torch.inf)
    return float((labels_N[likeness_NN.argmax(1)] == labels_N).double().mean())
