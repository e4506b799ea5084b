"""Differentiable Siamese augmentation: drawn once, applied to any batch.

The operations and their ranges are those of DSA (Zhao and Bilen, ICML 2021, https://arxiv.org/abs/2102.08259) as MTT,
FTD and DATM use them: every draw picks one group for the whole batch, then parameters for each sample. A draw is affine
in the images and differentiable to any order; its gradient is built from gathers alone, which CUDA can do
deterministically (it cannot for `grid_sample`).

Letters: B batch, C H W. Uniform numbers u in [0, 1) come as [3, B, 1, 1, 1]: three per sample, ready to broadcast;
each operation takes as many as it needs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, integer, uniform

Operation = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]

MAX_BRIGHTNESS: Final = 0.5
CROP_FRACTION: Final = 0.125
CUTOUT_FRACTION: Final = 0.5
MAX_SCALE: Final = 1.2
MAX_DEGREES: Final = 15.0


class Draw(Protocol):
    """An augmentation with all its random numbers fixed."""

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Augment a batch [B, C, H, W] of any float dtype; affine in the images and differentiable."""


class Augmentation(Protocol):
    """A distribution over draws."""

    def draw(self, key: Key, ids: Tensor) -> Draw:
        """Fix the random numbers of a batch whose samples have these ids (int64 [B]).

        What happens to a sample depends on the key and its own id, so that a shard is augmented as in the whole batch.
        """


@dataclass(frozen=True)
class NoAugmentation:
    """Leaves images as they are."""

    def draw(self, key: Key, ids: Tensor) -> Draw:
        """The identity."""
        return _identity


@dataclass(frozen=True, kw_only=True)
class DSA:
    """One group of operations per draw, picked uniformly for the whole batch."""

    strategy: tuple[Operation, ...] = ("color", "crop", "cutout", "flip", "scale", "rotate")
    """The groups to pick from (legacy: the `_`-separated string `dsa_strategy`)."""
    shared: bool = False
    """Whether all samples share one set of parameters, as DC, DSA and DM want for a real and a synthetic batch."""

    def draw(self, key: Key, ids: Tensor) -> "DSADraw":
        """The group from the key alone, the parameters from the key and each sample's id (from the key, if shared)."""
        group = self.strategy[integer(key.child("group"), 0, len(self.strategy))]
        ids = torch.zeros_like(ids) if self.shared else ids
        return DSADraw(group, uniform(key.child("parameters"), ids, 3))


@dataclass(frozen=True)
class Chain:
    """Several augmentations, all of which every sample goes through in turn."""

    parts: tuple[Augmentation, ...]

    def draw(self, key: Key, ids: Tensor) -> Draw:
        """A draw of each."""
        draws = [part.draw(key.child("part", number), ids) for number, part in enumerate(self.parts)]
        return lambda images_BCHW: reduce(lambda images, draw: draw(images), draws, images_BCHW)


@dataclass(frozen=True)
class DSADraw:
    """One group and the numbers that fix its parameters."""

    group: Operation
    uniforms: Tensor
    """float32 [B, 3]"""

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Augment a batch [B, C, H, W] of any float dtype; half precision is computed in float32 and rounded once."""
        dtype = torch.promote_types(images_BCHW.dtype, torch.float32)
        u = self.uniforms.to(images_BCHW.device, dtype).T[..., None, None, None]
        return _OPERATIONS[self.group](images_BCHW.to(dtype), u).to(images_BCHW.dtype)


NO_AUGMENTATION: Final = NoAugmentation()


def augmentation(name: str) -> Augmentation:
    """The augmentation that configs and records know under a name.

    Args:
        name: `none`, `dsa`, or groups of DSA joined by `_` in the literature's way, such as `color_crop_cutout`, of
            which each draw picks one; or several such names joined by `+`, which are all applied, the first one first:
            `crop+flip`, at 32 pixels a crop out of a margin of 4 and a flip, is how networks are trained on CIFAR.
            `idc:` before the groups is their use in IDC (https://arxiv.org/abs/2205.14959): flip and color, one of
            crop, scale and rotate, and cutout, in this order, as far as they are among the groups.

    Raises:
        ConfigError: there is no such group.
    """
    if "+" in name:
        return Chain(tuple(augmentation(part) for part in name.split("+")))
    if name == "none":
        return NO_AUGMENTATION
    if name == "dsa":
        return DSA()
    if name.startswith(_IDC):
        chosen = _groups(name.removeprefix(_IDC))
        return Chain(tuple(DSA(strategy=part) for part in _idc_parts(chosen) if part))
    return DSA(strategy=_groups(name))


def _groups(name: str) -> tuple[Operation, ...]:
    groups = get_args(Operation)
    chosen = tuple(group for group in groups if group in name.split("_"))
    if len(chosen) != len(name.split("_")):
        raise ConfigError("augmentation", f"{name!r} is neither none, dsa, nor some of {'_'.join(groups)}{_JOINED}")
    return chosen


def _idc_parts(groups: tuple[Operation, ...]) -> list[tuple[Operation, ...]]:
    """What is applied in turn: one each of these groups."""
    alternatives = tuple(group for group in groups if group not in _ALWAYS)
    first, second, last = (tuple(group for group in groups if group == own) for own in _ALWAYS)
    return [first, second, alternatives, last]


_IDC: Final = "idc:"
_ALWAYS: Final = "flip", "color", "cutout"
_JOINED: Final = " (one of them for every batch; joined by + each of them; after idc: as IDC does)"


def _identity(images_BCHW: Tensor) -> Tensor:
    return images_BCHW


def _color(images: Tensor, u: Tensor) -> Tensor:
    """Brightness, then saturation about each pixel's grey, then contrast about each image's mean."""
    brightness, saturation, contrast = u
    images = images + (2 * brightness - 1) * MAX_BRIGHTNESS
    images = torch.lerp(images.mean(1, keepdim=True), images, 2 * saturation)
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast + 0.5)


def _crop(images: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the side either way."""
    rows, columns = _offsets(images)
    reach_y, reach_x = (_part(side, CROP_FRACTION) for side in images.shape[2:])
    return _sample(images, rows + _whole(u[0], -reach_y, reach_y), columns + _whole(u[1], -reach_x, reach_x))


def _cutout(images: Tensor, u: Tensor) -> Tensor:
    """Blank a box of half the side, which may lie partly outside."""
    height, width = images.shape[2:]
    return images.masked_fill(_covered(height, u[0]).mT & _covered(width, u[1]), 0)


def _flip(images: Tensor, u: Tensor) -> Tensor:
    """Mirror left to right, half of the time."""
    return torch.where(u[0] < 0.5, images.flip(3), images)


def _scale(images: Tensor, u: Tensor) -> Tensor:
    """Stretch each axis about the centre; a factor above 1 reaches outside and so shrinks the picture."""
    rows, columns = _offsets(images)
    factor_y, factor_x, _ = 1 / MAX_SCALE + u * (MAX_SCALE - 1 / MAX_SCALE)
    return _sample(images, rows * factor_y, columns * factor_x)


def _rotate(images: Tensor, u: Tensor) -> Tensor:
    """Turn about the centre."""
    rows, columns = _offsets(images)
    angle = (2 * u[0] - 1) * math.radians(MAX_DEGREES)
    cosine, sine = angle.cos(), angle.sin()
    return _sample(images, sine * columns + cosine * rows, cosine * columns - sine * rows)


_OPERATIONS: Final[Mapping[Operation, Callable[[Tensor, Tensor], Tensor]]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def _part(side: int, fraction: float) -> int:
    """The part of a side in whole pixels, halves rounded up."""
    return math.floor(fraction * side + 0.5)


def _whole(u: Tensor, low: int, high: int) -> Tensor:
    """Uniform whole numbers in {low .. high}."""
    return (u * (high - low + 1)).floor() + low


def _covered(side: int, u: Tensor) -> Tensor:
    """Which pixels of an axis a cutout hides, bool [B, 1, 1, side].

    The centre of an even run lies on any of the side + 1 borders of pixels, that of an odd run on any pixel.
    """
    size = _part(side, CUTOUT_FRACTION)
    start = _whole(u, 0, side - size % 2) - size // 2
    pixels = torch.arange(side, device=u.device)
    return (start <= pixels) & (pixels < start + size)


def _offsets(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [H, 1] and columns [W], counted in pixels from the centre of the image."""
    rows, columns = (
        torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2 for side in images.shape[2:]
    )
    return rows[:, None], columns


def _sample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear interpolation of images [B, C, H, W] that are zero outside.

    The places to look at are pixels from the centre; rows and columns together broadcast to [B, 1, H, W].
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 2, 1, 2)).flatten(2)
    stride = width + 3
    rows = (rows + (height - 1) / 2).clamp(-1, height) + 1
    columns = (columns + (width - 1) / 2).clamp(-1, width) + 1
    top, left = rows.floor(), columns.floor()
    corner = (top * stride + left).long().flatten(2)

    def at(step: int) -> Tensor:
        return padded.gather(2, (corner + step).expand(-1, images.shape[1], -1)).view_as(images)

    upper = torch.lerp(at(0), at(1), columns - left)
    lower = torch.lerp(at(stride), at(stride + 1), columns - left)
    return torch.lerp(upper, lower, rows - top)
