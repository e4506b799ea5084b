"""What a ConvNet is made of: means, norms, pooling and convolutions of maps, and their transposes.

Letters: B batch, C channels, H W. Maps are [B, H, W, C], so that loops run along channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5
"""Of torch's group norm."""
FEW_CHANNELS = 8
"""Below this the gradient by a map is a matrix product and nine shifts, which is faster than torch's convolution."""


class Statistics(NamedTuple):
    """Of a map before its norm, all [B, 1, 1, C]."""

    mean: Tensor
    scale: Tensor
    """r"""


class Means(NamedTuple):
    """Two means over pixels [B, 1, 1, C], of a map and of the map times n."""

    plain: Tensor
    product: Tensor


def pixel_mean(map_BHWC: Tensor) -> Tensor:
    """The mean over the pixels of each image and channel, [B, 1, 1, C]."""
    return map_BHWC.mean((1, 2), keepdim=True)


def norm_statistics(z: Tensor) -> Statistics:
    """What the norm of a map takes."""
    mean = pixel_mean(z)
    return Statistics(mean, (pixel_mean((z - mean).square()) + EPSILON).rsqrt())


def normalised(z: Tensor, statistics: Statistics) -> Tensor:
    """The norm n = r (z - mean z)."""
    return (z - statistics.mean) * statistics.scale


def normalised_dot(n: Tensor, r: Tensor, z_dot: Tensor, z_means: Means) -> Tensor:
    """The derivative of n along that of z."""
    return r * (z_dot - z_means.plain - n * z_means.product)


def is_positive(q: Tensor) -> Tensor:
    """[q > 0] as numbers: compiled loops store truth values one by one."""
    return (q > 0).to(q.dtype)


def pool(map_BHWC: Tensor) -> Tensor:
    """The mean of each 2x2 pixels."""
    b, h, w, c = map_BHWC.shape
    return map_BHWC.view(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def unpool(map_BHWC: Tensor) -> Tensor:
    """The transpose of `_pool`."""
    b, h, w, c = map_BHWC.shape
    return (map_BHWC * 0.25)[:, :, None, :, None].expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c)


def channels_last(images_BCHW: Tensor) -> Tensor:
    """[B, H, W, C], a view."""
    return images_BCHW.permute(0, 2, 3, 1)


def channels_first(map_BHWC: Tensor) -> Tensor:
    """[B, C, H, W], a view."""
    return map_BHWC.permute(0, 3, 1, 2)


def convolve(map_BHWC: Tensor, weight: Tensor, padding: int) -> Tensor:
    """A convolution of 3x3 or 1x1 pixels at stride 1, without a bias."""
    return channels_last(F.conv2d(channels_first(map_BHWC), weight, padding=padding))


def gradient_by_weight(map_BHWC: Tensor, by_z: Tensor, weight: Tensor, padding: int) -> Tensor:
    """What dL/dz says of the weight."""
    return _convolution_backward(map_BHWC, by_z, weight, padding, of_weight=True)


def gradient_by_map(pairs: Sequence[tuple[Tensor, Tensor]], map_BHWC: Tensor, padding: int) -> Tensor:
    """The sum over (dL/dz, weight) of what each says of the map."""
    if map_BHWC.shape[3] < FEW_CHANNELS:
        return _shifted_sum(sum((_patches(*pair) for pair in pairs[1:]), start=_patches(*pairs[0])), padding)
    maps = [channels_last(_convolution_backward(map_BHWC, *pair, padding, of_weight=False)) for pair in pairs]
    return sum(maps[1:], start=maps[0])


def _convolution_backward(map_BHWC: Tensor, by_z: Tensor, weight: Tensor, padding: int, *, of_weight: bool) -> Tensor:
    by_map, by_weight, _ = torch.ops.aten.convolution_backward(
        channels_first(by_z), channels_first(map_BHWC), weight, None,
        [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, [not of_weight, of_weight, False],
    )  # fmt: skip
    chosen: Tensor = by_weight if of_weight else by_map
    return chosen


def _patches(by_z: Tensor, weight: Tensor) -> Tensor:
    """What every pixel of z says of its 3x3 pixels of the map, [B, H, W, 9 C]."""
    taps = weight.permute(2, 3, 1, 0).flatten(0, 2)[:, :, None, None]
    return convolve(by_z, taps.contiguous(memory_format=torch.channels_last), 0)


def _shifted_sum(patches: Tensor, padding: int) -> Tensor:
    """The map whose patches were taken: the transpose of cutting it into 3x3 pixels around every pixel."""
    b, h, w, _ = patches.shape
    taps = patches.view(b, h, w, 3, 3, -1)
    whole = sum(
        (F.pad(taps[:, :, :, i, j], (0, 0, j, 2 - j, i, 2 - i)) for i in range(3) for j in range(3)),
        start=patches.new_zeros(()),
    )
    return whole[:, padding : h + 2 - padding, padding : w + 2 - padding]
