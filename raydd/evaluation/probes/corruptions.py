"""Common corruptions of images (Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261), made here.

Eleven of the paper's fifteen, at its five severities, with the constants of CIFAR-10-C (its authors' code,
make_cifar_c.py), whose images have 32 pixels a side: of larger images, lengths in pixels grow with the shorter side. As
there, results are cut off to whole bytes. Missing are glass blur, snow, frost (which takes photographs) and elastic
transform, so that a mean is not that over CIFAR-10-C. The draws are ours, and so are images' bits: a draw depends on
the key, the corruption and the image's id, and is the same at all severities.

All is computed on the CPU, so that every device sees the same images.

Letters: B images, C H W, K values of a kernel, S side of a map of fog.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from raydd.core.keyed_random import Key, normal, uniform

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
]
CORRUPTIONS: Final[tuple[Corruption, ...]] = get_args(Corruption)
SEVERITIES: Final = (1, 2, 3, 4, 5)

_ROUNDING: Final = 1e-6
"""Of a byte: what float64 loses is not cut off."""
_GAUSSIAN: Final = (0.04, 0.06, 0.08, 0.09, 0.10)
_PHOTONS: Final = (500, 250, 100, 75, 50)
_IMPULSES: Final = (0.01, 0.02, 0.03, 0.05, 0.07)
_DISCS: Final = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
"""Radius, and deviation of the Gaussian that softens the edge."""
_MOTIONS: Final = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
"""Length, and deviation of the one-sided Gaussian along it."""
_ZOOMS: Final = (7, 12, 16, 21, 26)
"""How many of the factors 1, 1.01, 1.02, ... are averaged, with the rounding of numpy.arange: it decides where a side
comes to half a pixel."""
_FOGS: Final = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
"""Density, and by what the roughness falls from one scale to the next."""
_BRIGHTNESS: Final = (0.05, 0.1, 0.15, 0.2, 0.3)
_CONTRAST: Final = (0.75, 0.5, 0.4, 0.3, 0.15)
_PIXELS: Final = (0.95, 0.9, 0.85, 0.75, 0.65)
_QUALITY: Final = (80, 65, 58, 50, 40)


def corrupted(kind: Corruption, pixels_BCHW: Tensor, severity: int, key: Key, ids_B: Tensor) -> Tensor:
    """Images, uint8 [B, C, H, W] on the CPU, under one corruption, as bytes again.

    Args:
        kind: which corruption.
        pixels_BCHW: uint8.
        severity: 1 to 5.
        key: of the draws.
        ids_B: int64, of the images.
    """
    level = SEVERITIES.index(severity)
    if kind in _OF_FILES:
        return _one_by_one(_OF_FILES[kind], pixels_BCHW, level)
    x_BCHW = pixels_BCHW.double() / 255
    made = _FIXED[kind](x_BCHW, level) if kind in _FIXED else _DRAWN[kind](x_BCHW, level, key.child(kind), ids_B)
    return made.clamp(0, 1).mul(255).add(_ROUNDING).to(torch.uint8)


def _gaussian_noise(x_BCHW: Tensor, level: int, key: Key, ids_B: Tensor) -> Tensor:
    return x_BCHW + _GAUSSIAN[level] * normal(key, ids_B, x_BCHW[0].numel()).view_as(x_BCHW)


def _shot_noise(x_BCHW: Tensor, level: int, key: Key, ids_B: Tensor) -> Tensor:
    """Poisson(x c) / c, by inversion: the 256 distributions, one for each byte, lie end to end in one table."""
    c = _PHOTONS[level]
    means = torch.arange(256, dtype=torch.float64)[:, None] / 255 * c
    counts = torch.arange(c + 12 * math.ceil(c**0.5), dtype=torch.float64)  # 12 deviations
    table = torch.special.gammaincc(counts + 1, means)  # of a mean, the probability of at most so many
    table[:, -1] = 1
    byte = (x_BCHW * 255).round()
    drawn = _uniform(key, ids_B, x_BCHW)
    places = torch.searchsorted((table + torch.arange(256)[:, None]).flatten(), byte + drawn, right=True)
    return (places - byte * len(counts)) / c


def _impulse_noise(x_BCHW: Tensor, level: int, key: Key, ids_B: Tensor) -> Tensor:
    """A part of the values, each by itself, becomes 1 or, as often, 0."""
    part, drawn = _IMPULSES[level], _uniform(key, ids_B, x_BCHW)
    return x_BCHW.where(drawn >= part, (drawn < part / 2).double())


def _defocus_blur(x_BCHW: Tensor, level: int) -> Tensor:
    """A disc with a softened edge; the border reflects."""
    radius, soft = _DISCS[level][0] * _growth(x_BCHW), _DISCS[level][1]
    edge = 1 if radius <= 8 else 2
    reach = int(radius) + edge
    square_K = torch.arange(-reach, reach + 1, dtype=torch.float64).square()
    disc_KK = (square_K[:, None] + square_K <= radius**2).double()
    gaussian_K = _gaussian(edge, soft)
    kernel_KK = F.conv2d(
        (disc_KK / disc_KK.sum())[None, None], torch.outer(gaussian_K, gaussian_K)[None, None], padding=edge
    )
    channels = x_BCHW.flatten(0, 1)[:, None]
    return F.conv2d(F.pad(channels, (reach,) * 4, mode="reflect"), kernel_KK).view_as(x_BCHW)


def _motion_blur(x_BCHW: Tensor, level: int, key: Key, ids_B: Tensor) -> Tensor:
    """Each image is averaged along a line of its own, up to 45 degrees off the horizontal; the border goes on.

    As ImageMagick does it, to whole pixels.
    """
    length, deviation = (value * _growth(x_BCHW) for value in _MOTIONS[level])
    weights_K = _gaussian(2 * math.ceil(length), deviation)[2 * math.ceil(length) :]
    angle_B = (uniform(key, ids_B)[:, 0].double() - 0.5) * math.pi / 2
    batch, _, height, width = x_BCHW.shape
    image_B111 = torch.arange(batch)[:, None, None]
    made = torch.zeros_like(x_BCHW).permute(0, 2, 3, 1)
    for place, weight in enumerate(weights_K / weights_K.sum()):
        down_B, right_B = ((place * turn - 0.5).ceil().long() for turn in (angle_B.sin(), angle_B.cos()))
        rows_BH = (torch.arange(height) + down_B[:, None]).clamp(0, height - 1)
        columns_BW = (torch.arange(width) + right_B[:, None]).clamp(0, width - 1)
        made += weight * x_BCHW[image_B111, :, rows_BH[:, :, None], columns_BW[:, None]]
    return made.permute(0, 3, 1, 2)


def _zoom_blur(x_BCHW: Tensor, level: int) -> Tensor:
    """The mean of an image and of itself zoomed in by several factors, bilinearly."""
    zoomed = [_zoomed(x_BCHW, factor) for factor in 1 + (1.01 - 1) * np.arange(_ZOOMS[level])]
    return torch.stack([x_BCHW, *zoomed]).mean(0)


def _zoomed(x_BCHW: Tensor, factor: float) -> Tensor:
    sides = x_BCHW.shape[-2:]
    inner = [math.ceil(side / factor) for side in sides]
    larger = [round(side * factor) for side in inner]
    cut = F.interpolate(_middle(x_BCHW, inner), larger, mode="bilinear", align_corners=True)
    return _middle(cut, sides)


def _middle(x_BCHW: Tensor, sides: Sequence[int]) -> Tensor:
    top, left = ((have - wanted) // 2 for have, wanted in zip(x_BCHW.shape[-2:], sides, strict=True))
    return x_BCHW[..., top : top + sides[0], left : left + sides[1]]


def _fog(x_BCHW: Tensor, level: int, key: Key, ids_B: Tensor) -> Tensor:
    """A fractal map is added, and the sum scaled so that the brightest value could stay what it was."""
    density, decay = _FOGS[level]
    height, width = x_BCHW.shape[-2:]
    side = 2 ** math.ceil(math.log2(max(height, width, 2)))
    map_BSS = _fractal(uniform(key, ids_B, side**2).double() * 2 - 1, side, decay)
    brightest_B111 = x_BCHW.amax((1, 2, 3), keepdim=True)
    added = x_BCHW + density * map_BSS[:, None, :height, :width]
    return added * brightest_B111 / (brightest_B111 + density)


def _fractal(draws_Bn: Tensor, side: int, decay: float) -> Tensor:
    """Heights [B, S, S] in 0..1 by the diamond-square algorithm on a torus, from S^2 draws in -1..1 for each.

    From one scale to the next, the middle of every square and then of every edge becomes the mean of its four
    neighbours and a draw, as rough as the square of a number that starts at 100 and is divided by `decay`.
    """
    scales = [4**scale for scale in range(side.bit_length() - 1) for _ in range(3)]
    draws: Iterator[Tensor] = iter(draws_Bn[:, : sum(scales)].split(scales, 1))
    heights, rough, step = draws_Bn.new_zeros(len(draws_Bn), side, side), 100.0, side

    def moved(neighbours: Tensor) -> Tensor:
        return neighbours / 4 + rough**2 * next(draws).view_as(neighbours)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        heights[:, half::step, half::step] = moved(pairs + pairs.roll(-1, 2))
        middles = heights[:, half::step, half::step]
        edges = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        sides = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        heights[:, ::step, half::step] = moved(edges)
        heights[:, half::step, ::step] = moved(sides)
        step, rough = half, rough / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


def _brightness(x_BCHW: Tensor, level: int) -> Tensor:
    """The value of HSV grows, up to 1, hue and saturation stay: a pixel's channels are scaled together."""
    value_B1HW = x_BCHW.amax(1, keepdim=True)
    brighter_B1HW = (value_B1HW + _BRIGHTNESS[level]).clamp(max=1)
    scaled = x_BCHW * (brighter_B1HW / value_B1HW.where(value_B1HW > 0, 1))
    return scaled.where(value_B1HW > 0, brighter_B1HW)


def _contrast(x_BCHW: Tensor, level: int) -> Tensor:
    """Nearer to the mean of each channel."""
    mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
    return (x_BCHW - mean_BC11) * _CONTRAST[level] + mean_BC11


def _pixelated(image: Image.Image, level: int) -> Image.Image:
    """Scaled down and up again, by areas."""
    width, height = (max(1, int(side * _PIXELS[level])) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)


def _compressed(image: Image.Image, level: int) -> Image.Image:
    """As a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY[level])
    return Image.open(file)


def _one_by_one(change: Callable[[Image.Image, int], Image.Image], pixels_BCHW: Tensor, level: int) -> Tensor:
    """Colour images as such; of others than three channels, each channel as an image in greys."""
    size_B, channels, *_ = pixels_BCHW.shape
    together = channels if channels == 3 else 1
    parts = pixels_BCHW.reshape(size_B * channels // together, together, *pixels_BCHW.shape[2:]).permute(0, 2, 3, 1)
    images = [Image.fromarray(part.squeeze(2).numpy() if together == 1 else part.numpy()) for part in parts]
    made = torch.from_numpy(np.stack([np.asarray(change(image, level)) for image in images]))
    return made.view(parts.shape).permute(0, 3, 1, 2).reshape(pixels_BCHW.shape)


def _uniform(key: Key, ids_B: Tensor, like_BCHW: Tensor) -> Tensor:
    return uniform(key, ids_B, like_BCHW[0].numel()).view_as(like_BCHW).double()


def _gaussian(reach: int, deviation: float) -> Tensor:
    """A Gaussian at -reach, ..., reach, which adds up to 1: float64 [2 reach + 1]."""
    weights_K = torch.arange(-reach, reach + 1, dtype=torch.float64).div(deviation).square().div(-2).exp()
    return weights_K / weights_K.sum()


def _growth(x_BCHW: Tensor) -> float:
    """By what lengths grow with the images."""
    return max(1.0, min(x_BCHW.shape[-2:]) / 32)


_DRAWN: Final[dict[str, Callable[[Tensor, int, Key, Tensor], Tensor]]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "motion_blur": _motion_blur,
    "fog": _fog,
}
_FIXED: Final[dict[str, Callable[[Tensor, int], Tensor]]] = {
    "defocus_blur": _defocus_blur,
    "zoom_blur": _zoom_blur,
    "brightness": _brightness,
    "contrast": _contrast,
}
_OF_FILES: Final[dict[str, Callable[[Image.Image, int], Image.Image]]] = {
    "pixelate": _pixelated,
    "jpeg_compression": _compressed,
}
