"""Moments of what goes into a network's layers, image by image, and of sets of images by their sums.

Of image i, m_i and v_i are mean and variance of one channel over pixels, or of one block over its pixels and all
channels; the variance is divided by their number. Of n images, S1, S2 and Sv are the sums of m_i, m_i^2 and v_i. Sums
of disjoint sets add up, and say the moments over all images and pixels together:

    M = S1 / n,    V = (Sv + S2) / n - M^2 = Sv / n + the variance of m_i.

WMDD (Liu et al., https://arxiv.org/abs/2311.18531) matches those of classes, G-VBSM (Shao et al.,
https://arxiv.org/abs/2311.17950) those of batch norms, convolutions and blocks of pixels. The published code of both
averages variances within batches, which leaves out what lies between these.

Letters: N images, C channels, H W, B blocks, D channels or blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Moments:
    """Of sets of images; all float64 [..., D]."""

    mean: Tensor
    """M"""
    variance: Tensor
    """V, over images and pixels."""
    within: Tensor
    """Sv / n: the mean over images of the variance over the pixels of each, which is at most V."""


def channel_moments(x_NCHW: Tensor) -> Tensor:
    """m_i and v_i of every channel: float64 [2, N, C], computed in float32 at least."""
    wide = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    return torch.stack([wide.mean((2, 3)), wide.var((2, 3), correction=0)]).double()


def block_moments(x_NCHW: Tensor, side: int) -> Tensor:
    """m_i and v_i of every block of side x side pixels, row by row: float64 [2, N, B].

    An input whose height or width `side` does not divide is stretched first, bilinearly, to the next multiple.
    """
    count, channels, height, width = x_NCHW.shape
    rows, columns = -(-height // side), -(-width // side)
    x = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    if (height, width) != (rows * side, columns * side):
        x = F.interpolate(x, (rows * side, columns * side), mode="bilinear", align_corners=False)
    blocks = x.view(count, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return torch.stack([blocks.mean(2), blocks.var(2, correction=0)]).double()


def summed(moments_2ND: Tensor) -> Tensor:
    """S1, S2 and Sv of N images: float64 [3, D]."""
    mean_ND, variance_ND = moments_2ND
    return torch.stack([mean_ND.sum(0), mean_ND.square().sum(0), variance_ND.sum(0)])


def moments_of(sums_3D: Tensor, count: Tensor) -> Moments:
    """The moments of sets of images, by their sums.

    Args:
        sums_3D: float64 [..., 3, D], see `summed`.
        count: int64 [...], how many images each set has, at least 1.
    """
    first, second, within = (sums_3D / count[..., None, None]).unbind(-2)
    between = (second - first.square()).clamp(0)
    return Moments(first, within + between, within)
