"""Multi-formation: one stored image as a mosaic of several training images.

Source: IDC (Kim et al., ICML 2022, https://arxiv.org/abs/2205.14959): an image is cut into factor x factor parts, and
each is enlarged to the size of the whole by bilinear interpolation, in which a pixel is a square and its value that of
the square's centre (`align_corners=False`). An image whose side the factor does not divide is padded below and on the
right first.

Enlarging is a product with one small matrix per axis, so that gradients of any order are products too and come out the
same every time (those of torch's `interpolate` do not on CUDA). It commutes with an affine map of each channel: images
in standardised network space decode as pixels do, if what is padded with goes through the map as well.

Letters: M stored images, N decoded images, C H W.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.data.preprocessing import ZCA, Preprocessing

FormationMode = Literal["single", "multi", "bound"]

GREY = 0.5
"""The pixel that images are padded with, in units of [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Formation:
    """How stored images become those that networks are trained on."""

    factor: int
    """[factor] parts along each axis; 1 leaves images as they are."""
    mode: FormationMode = "single"
    """[decode_type] single: every image is cut into factor^2 parts. multi: into the parts of all factors from 1 to this
    one. bound: as single, for as many images of a class as `limit` allows; later ones take smaller factors."""
    limit: int | None = None
    """[batch_syn_max] of bound: decoded images a class, where there are no more stored ones than that."""

    def __post_init__(self) -> None:
        """Refuse what cannot be decoded."""
        if self.factor < 1:
            raise ConfigError("factor", f"must be at least 1, is {self.factor}")
        if (self.mode == "bound") != (self.limit is not None):
            raise ConfigError("limit", f"belongs to the mode bound alone, is {self.limit} with {self.mode}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError("limit", f"must be at least 1, is {self.limit}")

    def decoded(self, images_MCHW: Tensor, labels_M: Tensor, pad: Tensor | float = GREY) -> tuple[Tensor, Tensor]:
        """The images of a whole set, each class decoded by itself; see `decode`.

        Returns:
            float [N, C, H, W] in the order of the stored images, and int64 [N]: the stored image of each.
        """
        found = []
        for label in labels_M.unique():
            rows = (labels_M == label).nonzero()[:, 0]
            images, index = decode(images_MCHW[rows], self.factor, self.mode, self.limit, pad)
            found.append((images, rows[index]))
        index_N = torch.cat([index for _, index in found])
        order = index_N.argsort(stable=True)
        return torch.cat([images for images, _ in found])[order], index_N[order]

    def num_decoded(self, num_images: int) -> int:
        """Decoded images of so many stored ones of one class."""
        plan = _plan(num_images, self.factor, self.mode, self.limit)
        return sum(count * sum(f * f for f in factors) for count, factors in plan)


def decode(
    images_MCHW: Tensor,
    factor: int,
    mode: FormationMode = "single",
    limit: int | None = None,
    pad: Tensor | float = GREY,
) -> tuple[Tensor, Tensor]:
    """The training images that stored ones stand for; linear in the images and differentiable to any order.

    The decoded images of one stored image lie together, and in the order of the stored ones: by rising factor, where
    there are several, and row by row over the mosaic.

    Args:
        images_MCHW: of one class, where there is a limit.
        factor: parts along each axis.
        mode: see `Formation`.
        limit: of bound.
        pad: the value, or one for each channel [C], below and on the right of images that the factor does not divide.

    Returns:
        [N, C, H, W], and int64 [N]: the stored image of each.
    """
    found, index, first = [], [], 0
    for count, factors in _plan(len(images_MCHW), factor, mode, limit):
        rows = torch.arange(first, first + count, device=images_MCHW.device)
        parts = torch.cat([_parts(images_MCHW[first : first + count], f, pad) for f in factors], 1)
        found.append(parts.flatten(0, 1))
        index.append(rows.repeat_interleave(parts.shape[1]))
        first += count
    return torch.cat(found), torch.cat(index)


def grey(preprocessing: Preprocessing, channels: int) -> Tensor:
    """What images in network space are padded with, float32 [C].

    Raises:
        ConfigError: the images are whitened, so that parts of them are not images in that space.
    """
    if isinstance(preprocessing, ZCA):
        raise ConfigError("data.preprocess", "the parts of a whitened image mean nothing: take standardise or none")
    return preprocessing.forward(torch.full((1, channels, 1, 1), GREY)).flatten()


def _plan(
    num_images: int, factor: int, mode: FormationMode, limit: int | None
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """How many images, in their order, are cut by which factors.

    Bound is counted as in IDC's code: with n images left of which each takes at least one place, factor f is for the
    next floor((free - n) / f^2) of them.
    """
    if mode == "multi":
        yield num_images, tuple(range(1, factor + 1))
        return
    if limit is None:
        yield num_images, (factor,)
        return
    left, free = num_images, limit
    for f in range(factor, 0, -1):
        count = min(max(free - left, 0) // f**2, left) if f > 1 else left
        if count:
            yield count, (f,)
        left, free = left - count, free - count * f**2


def _parts(images_MCHW: Tensor, factor: int, pad: Tensor | float) -> Tensor:
    """The enlarged parts of every image, [M, factor^2, C, H, W]."""
    num_images, channels, height, width = images_MCHW.shape
    if factor == 1:
        return images_MCHW[:, None]
    rows, columns = (math.ceil(side / factor) for side in (height, width))
    below, beside = rows * factor - height, columns * factor - width
    if below or beside:
        value = torch.as_tensor(pad).to(images_MCHW).view(-1, 1, 1)
        outside = F.pad(images_MCHW.new_zeros(height, width), (0, beside, 0, below), value=1)
        images_MCHW = F.pad(images_MCHW, (0, beside, 0, below)) + value * outside
    cut = images_MCHW.reshape(num_images, channels, factor, rows, factor, columns).permute(0, 2, 4, 1, 3, 5)
    parts = cut.flatten(1, 2)
    upright, across = (_enlarging(small, large).to(images_MCHW) for small, large in ((rows, height), (columns, width)))
    return upright @ parts @ across.mT


@cache
def _enlarging(small: int, large: int) -> Tensor:
    """Linear interpolation from so many values to so many, float64 [large, small]; the ends are held beyond the last.

    Value i lies at i + 1/2, both axes being as long as the larger one counts.
    """
    at = ((torch.arange(large, dtype=torch.float64) + 0.5) * small / large - 0.5).clamp(0, small - 1)
    return (1 - (at[:, None] - torch.arange(small)).abs()).clamp(min=0)
