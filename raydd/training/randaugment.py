"""RandAugment (Cubuk et al., NeurIPS 2020) in the form of timm's `rand-m-n-mstd`, on a whole batch at once.

So it is used by DELT (https://arxiv.org/abs/2411.19946): of fifteen operations every layer picks one for each image,
applies it half of the time, and draws its strength anew about m. As in timm without `inc`, colours change most at
both ends of the scale, and posterisation and solarisation are strongest at 0. Operations are Pillow's up to a grey
level of 255, as results are rounded and not cut off; movements interpolate linearly, where timm picks linear or cubic.

Letters: B batch, C H W. In operations pixels are float, whole, in 0..255; strengths [B, 1, 1, 1] are in 0..1.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.keyed_random import Key, integers, normal, uniform

MAX_MAGNITUDE: Final = 10.0
"""The end of timm's scale."""
APPLIED: Final = 0.5
"""How often an operation that was picked is applied."""
MAX_DEGREES: Final = 30.0
MAX_SHEAR: Final = 0.3
MAX_SHIFT: Final = 0.45
"""Of a side."""
MOVES: Final = ("shear_x", "shear_y", "shift_x", "shift_y", "turn")


def randaugment(
    pixels_BCHW: Tensor, fill_C: Tensor, key: Key, ids: Tensor, *, layers: int, magnitude: float, std: float
) -> Tensor:
    """Apply random operations to each image, one after the other.

    Args:
        pixels_BCHW: uint8.
        fill_C: the colour of what movements uncover, 0 to 255.
        key: of the draws.
        ids: int64 [B]; what happens to an image depends on the key and its own id.
        layers: how many operations.
        magnitude: their mean strength, 0 to 10.
        std: the standard deviation of each one's strength, which is cut off at 0 and 10.

    Returns:
        uint8 [B, C, H, W].
    """
    ids = ids.cpu()
    for layer in range(layers):
        own = key.child(layer)
        operations = integers(own.child("operation"), ids, 0, len(COLOURS) + len(MOVES))
        applied = uniform(own.child("applied"), ids)[:, 0] < APPLIED
        strengths = (magnitude + std * normal(own.child("strength"), ids)[:, 0]).clamp(0, MAX_MAGNITUDE) / MAX_MAGNITUDE
        signs = torch.where(uniform(own.child("sign"), ids)[:, 0] < 0.5, -1.0, 1.0)
        pixels_BCHW = change(pixels_BCHW, fill_C, operations.where(applied, -1), strengths, signs)
    return pixels_BCHW


def change(pixels_BCHW: Tensor, fill_C: Tensor, operations_B: Tensor, strengths_B: Tensor, signs_B: Tensor) -> Tensor:
    """One operation on each image.

    Args:
        pixels_BCHW: uint8.
        fill_C: the colour of what movements uncover, 0 to 255.
        operations_B: int64 on the CPU, places in `COLOURS` followed by `MOVES`; -1 leaves an image as it is.
        strengths_B: 0 to 1.
        signs_B: -1 or 1, the direction of a movement.

    Returns:
        uint8 [B, C, H, W].
    """
    device, changed = pixels_BCHW.device, pixels_BCHW.clone()
    strengths, signed = (tensor.to(device)[:, None, None, None] for tensor in (strengths_B, strengths_B * signs_B))
    for number, colour in enumerate(COLOURS):
        rows = (operations_B == number).nonzero()[:, 0].to(device)
        changed[rows] = _to_uint8(colour(pixels_BCHW[rows].float(), strengths[rows]))
    rows = (operations_B >= len(COLOURS)).nonzero()[:, 0].to(device)
    kinds = F.one_hot(operations_B.to(device)[rows] - len(COLOURS), len(MOVES))
    changed[rows] = _to_uint8(_moved(pixels_BCHW[rows].float(), fill_C.to(device), kinds * signed[rows, 0, 0]))
    return changed


def _moved(images: Tensor, fill_C: Tensor, extents: Tensor) -> Tensor:
    """Images moved by extents [B, 5] in -1..1 of what `MOVES` names, at most one of an image's not zero."""
    height, width = images.shape[2:]
    shear_x, shear_y, shift_x, shift_y, turn = extents.T[:, :, None, None]
    cosine, sine = (turn * math.radians(MAX_DEGREES)).cos(), (turn * math.radians(MAX_DEGREES)).sin()
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    across, down = x - width / 2, y - height / 2
    columns = cosine * across - sine * down + width / 2 + MAX_SHEAR * shear_x * y + MAX_SHIFT * width * shift_x
    rows = sine * across + cosine * down + height / 2 + MAX_SHEAR * shear_y * x + MAX_SHIFT * height * shift_y
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], 3)
    found = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return torch.where(inside[:, None], found, fill_C[:, None, None].to(images.dtype))


def _autocontrast(images: Tensor, strengths: Tensor) -> Tensor:
    """Each channel's values stretched to the whole range."""
    low, high = (limit[:, :, None, None] for limit in images.flatten(2).aminmax(dim=2))
    return torch.where(high > low, (images - low) * 255 / (high - low), images)


def _equalized(images: Tensor, strengths: Tensor) -> Tensor:
    """Each channel's values spread so that all are about equally frequent."""
    values = images.long().flatten(2)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=values.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    largest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - largest) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, values), values).view(images.shape).float()


def _inverted(images: Tensor, strengths: Tensor) -> Tensor:
    return 255 - images


def _posterized(images: Tensor, strengths: Tensor) -> Tensor:
    """The highest bits of every value, 0 to 4 of them."""
    step = 2 ** (8 - (4 * strengths).floor())
    return (images / step).floor() * step


def _solarized(images: Tensor, strengths: Tensor) -> Tensor:
    """Values inverted from a threshold on."""
    return torch.where(images < (256 * strengths).floor(), images, 255 - images)


def _solarized_add(images: Tensor, strengths: Tensor) -> Tensor:
    """The darker half of the values raised by up to 110."""
    return torch.where(images < 128, images + (110 * strengths).floor(), images)


def _saturated(images: Tensor, strengths: Tensor) -> Tensor:
    return torch.lerp(_grey(images), images, _factor(strengths))


def _contrasted(images: Tensor, strengths: Tensor) -> Tensor:
    return torch.lerp(_grey(images).mean((2, 3), keepdim=True).round(), images, _factor(strengths))


def _brightened(images: Tensor, strengths: Tensor) -> Tensor:
    return images * _factor(strengths)


def _sharpened(images: Tensor, strengths: Tensor) -> Tensor:
    """Away from, or towards, a mean over 3x3 pixels with five times the weight in the middle."""
    smooth, inner = images.clone(), (..., slice(1, -1), slice(1, -1))
    smooth[inner] = ((9 * F.avg_pool2d(images, 3, stride=1) + 4 * images[inner]) / 13).round()
    return torch.lerp(smooth, images, _factor(strengths))


COLOURS: Final[tuple[Callable[[Tensor, Tensor], Tensor], ...]] = (
    _autocontrast,
    _equalized,
    _inverted,
    _posterized,
    _solarized,
    _solarized_add,
    _saturated,
    _contrasted,
    _brightened,
    _sharpened,
)
"""Operations that leave every pixel where it is."""


def _factor(strengths: Tensor) -> Tensor:
    """How much of an image is taken in its mixture with a duller one; above 1 the opposite of that."""
    return 0.1 + 1.8 * strengths


def _grey(images: Tensor) -> Tensor:
    """Luminance [B, 1, H, W] of colours, by ITU-R BT.601; the mean of other than three channels."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = images.new_tensor([19595, 38470, 7471])[:, None, None]
    return ((images * weights).sum(1, keepdim=True) / 2**16).round()


def _to_uint8(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
