"""Views of images: what students of the decoupled family are trained on, and what their teacher labels.

A view is RandAugment, patch shuffle, random resized crop and flip, in pixel space, then preprocessing; two views are
then mixed by CutMix or MixUp. Every draw is of one sample and keyed by (key, epoch, image id) alone, unlike in the
papers' code (SRe2L, https://arxiv.org/abs/2306.13092; RDED, https://arxiv.org/abs/2312.03526; DELT,
https://arxiv.org/abs/2411.19946), which draws per batch: batch size, order and workers are free, and labels stored
under (epoch, image id) can be replayed at any of them.

Letters: M images, B batch, C H W.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core import keyed_random
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, uniform
from raydd.data.preprocessing import Preprocessing
from raydd.training.randaugment import MAX_MAGNITUDE, randaugment

RATIOS: Final = 3 / 4, 4 / 3
"""The least and the largest ratio of a crop's width to its height, before rounding."""
IMAGENET_COLOUR: Final = [124, 116, 104]
IMAGENET_GREY: Final = [117]
TRIES: Final = 10
"""Boxes that are drawn for a crop before the central one is taken."""


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How the views of a set are drawn."""

    min_scale: float = 0.08
    """The smallest part of an image's area that a crop takes; the largest is all of it."""
    randaugment_ops: int = 0
    """[n of timm's rand-m-n-mstd] operations of RandAugment, one after the other; 0 is none."""
    randaugment_magnitude: float = 0.0
    """[m] their mean strength, 0 to 10."""
    randaugment_std: float = 0.0
    """[mstd] the standard deviation of each one's strength."""
    patch_shuffle: int = 1
    """[RDED's factor] images are grids of so many patches a side, whose columns and rows are put in random order."""
    mix: Literal["none", "cutmix", "mixup"] = "cutmix"
    """How every view is mixed with that of another image."""
    mix_alpha: float = 1.0
    """The image's own share is drawn from Beta(alpha, alpha)."""
    flip: bool = True
    """Whether half of the views are mirrored left to right."""
    crop_padding: int = 0
    """[padding of RandomCrop] in place of a resized crop, a box of the image's size anywhere in the image with so many
    black pixels around it; 0 resizes."""
    randaugment_fill: Literal["mean", "imagenet"] = "mean"
    """The colour of what RandAugment's movements uncover: the mean of the set, or ImageNet's (124, 116, 104)."""

    def identity(self) -> dict[str, Any]:
        """What determines the views, for content keys; fields that were added later where they change anything."""
        values = asdict(self)
        return {f.name: values[f.name] for f in fields(self) if f.name not in _LATER or values[f.name] != f.default}

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 0 < self.min_scale <= 1:
            raise ConfigError("min_scale", f"must be above 0 and at most 1, is {self.min_scale}")
        if self.randaugment_ops < 0:
            raise ConfigError("randaugment_ops", f"must be 0 or larger, is {self.randaugment_ops}")
        if not 0 <= self.randaugment_magnitude <= MAX_MAGNITUDE:
            raise ConfigError("randaugment_magnitude", f"must be within 0 and 10, is {self.randaugment_magnitude}")
        if not 0 <= self.randaugment_std < math.inf:
            raise ConfigError("randaugment_std", f"must be 0 or larger, is {self.randaugment_std}")
        if self.patch_shuffle < 1:
            raise ConfigError("patch_shuffle", f"must be at least 1, is {self.patch_shuffle}")
        if not 0 < self.mix_alpha < math.inf:
            raise ConfigError("mix_alpha", f"must be positive, is {self.mix_alpha}")
        if self.crop_padding < 0:
            raise ConfigError("crop_padding", f"must be 0 or larger, is {self.crop_padding}")


_LATER: Final = ("crop_padding", "randaugment_fill")


@dataclass(frozen=True)
class Mixed:
    """Views, each mixed with one of another image."""

    images: Tensor
    """float32 [B, C, H, W] in network space."""
    partners: Tensor
    """int64 [B]: ids of the other images; the image's own id where nothing is mixed."""
    shares: Tensor
    """float32 [B]: how much is the image's own."""


class ImageViews:
    """All views of a set of images: of any of them, in any epoch, in any order."""

    def __init__(self, images_MCHW: Tensor, preprocessing: Preprocessing, config: ViewsConfig) -> None:
        """Take the pixels of the images; views are made on their device.

        Args:
            images_MCHW: float32 [M, C, H, W] in network space; not kept.
            preprocessing: the way there from pixels.
            config: how views are drawn. RandAugment works on whole pixels, uint8, and fills in their mean colour.

        Raises:
            ConfigError: the sides of the images are no multiples of `patch_shuffle`.
        """
        if any(side % config.patch_shuffle for side in images_MCHW.shape[2:]):
            height, width = images_MCHW.shape[2:]
            raise ConfigError("patch_shuffle", f"{config.patch_shuffle} does not divide images of {height}x{width}")
        pixels = preprocessing.inverse(images_MCHW)
        self.config = config
        self._pixels = pixels.mul(255).round().clamp(0, 255).to(torch.uint8) if config.randaugment_ops else pixels
        self._fill_C = fill(config.randaugment_fill, pixels)
        self._preprocessing = preprocessing

    def __len__(self) -> int:
        """The number of images, M."""
        return len(self._pixels)

    @property
    def device(self) -> torch.device:
        """Where views are made."""
        return self._pixels.device

    def views(self, key: Key, epoch: int, ids: Tensor) -> Tensor:
        """The views of images (ids int64 [B]) in an epoch, float32 [B, C, H, W] in network space, not mixed."""
        ids = ids.to(self.device)
        config, pixels = self.config, self._pixels[ids]
        if config.randaugment_ops:
            pixels = randaugment(
                pixels,
                self._fill_C,
                key.child("randaugment", epoch),
                ids,
                layers=config.randaugment_ops,
                magnitude=config.randaugment_magnitude,
                std=config.randaugment_std,
            ).float()
            pixels /= 255
        if config.patch_shuffle > 1:
            draws = uniform(key.child("shuffle", epoch), ids, 2 * config.patch_shuffle)
            pixels = shuffle_patches(pixels, draws.view(len(ids), 2, -1).argsort(dim=2, stable=True))
        height, width = pixels.shape[2:]
        mirrored = uniform(key.child("flip", epoch), ids)[:, 0] < (0.5 if config.flip else 0.0)
        if config.crop_padding:
            corners = (uniform(key.child("crop", epoch), ids, 2) * (2 * config.crop_padding + 1)).long()
            cropped = padded_crops(pixels, corners, config.crop_padding, mirrored)
        else:
            boxes = crop_boxes(key.child("crop", epoch), ids, height, width, config.min_scale)
            cropped = resized_crops(pixels, boxes, mirrored)
        return self._preprocessing.forward(cropped)

    def mix(self, key: Key, epoch: int, ids: Tensor) -> Mixed:
        """The views of images (ids int64 [B]) in an epoch, each mixed with its partner's own view in that epoch."""
        ids = ids.to(self.device)
        if self.config.mix == "none":
            return Mixed(self.views(key, epoch, ids), ids, torch.ones(len(ids), device=ids.device))
        partners = keyed_random.integers(key.child("partner", epoch), ids, 0, len(self))
        own, other = self.views(key, epoch, torch.cat([ids, partners])).chunk(2)
        shares, row, column = uniform(key.child("mix", epoch), ids, 3).double().T
        shares = symmetric_beta(shares, self.config.mix_alpha)
        if self.config.mix == "mixup":
            weights = shares.float()[:, None, None, None]
            return Mixed(weights * own + (1 - weights) * other, partners, shares.float())
        height, width = own.shape[2:]
        pasted = pasted_boxes(shares, row, column, height, width)
        images = torch.where(pasted[:, None], other, own)
        return Mixed(images, partners, 1 - pasted.float().mean((1, 2)))


def fill(name: Literal["mean", "imagenet"], pixels_MCHW: Tensor) -> Tensor:
    """The colour of what movements uncover, [C] in 0 to 255; ImageNet's is its luminance for grey images.

    Args:
        name: see `ViewsConfig.randaugment_fill`; of other than 1 or 3 channels always the mean.
        pixels_MCHW: in units of [0, 1].
    """
    if name == "mean" or pixels_MCHW.shape[1] not in (1, 3):
        return 255 * pixels_MCHW.mean((0, 2, 3))
    return pixels_MCHW.new_tensor(IMAGENET_GREY if pixels_MCHW.shape[1] == 1 else IMAGENET_COLOUR)


def padded_crops(images_BCHW: Tensor, corners_B2: Tensor, padding: int, mirrored_B: Tensor) -> Tensor:
    """A box of each image's own size from the image with zeros around it, mirrored where asked: [B, C, H, W].

    The same as torchvision's RandomCrop(size, padding) on pixels, and a flip.

    Args:
        images_BCHW: float.
        corners_B2: int64 [B, 2], the box's row and column in the padded image, 0 to 2 * padding.
        padding: how many zeros there are on each side.
        mirrored_B: bool [B].
    """
    height, width = images_BCHW.shape[2:]
    rows = corners_B2[:, :1] + torch.arange(height, device=images_BCHW.device)
    columns = corners_B2[:, 1:] + torch.arange(width, device=images_BCHW.device)
    columns = torch.where(mirrored_B[:, None], columns.flip(1), columns)
    padded = F.pad(images_BCHW, (padding,) * 4).permute(0, 2, 3, 1)
    samples = torch.arange(len(images_BCHW), device=images_BCHW.device)[:, None, None]
    return padded[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop_boxes(key: Key, ids: Tensor, height: int, width: int, min_scale: float) -> Tensor:
    """Boxes by the rule of torchvision's RandomResizedCrop: int64 [B, 4] of top, left, height, width.

    Area uniform in [min_scale, 1] of the image's, ratio log-uniform; the first of ten such boxes that fits, anywhere
    in the image; where none does the largest central one within the ratios.

    Args:
        key: of the draws.
        ids: int64 [B].
        height: H of the images.
        width: W of the images.
        min_scale: see `ViewsConfig`.
    """
    draws = uniform(key, ids, 2 * TRIES + 2).double()
    areas = height * width * (min_scale + (1 - min_scale) * draws[:, :TRIES])
    low, high = (math.log(ratio) for ratio in RATIOS)
    ratios = (low + (high - low) * draws[:, TRIES : 2 * TRIES]).exp()
    central = _central_size(height, width)
    sides = [(areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()]
    candidates = torch.stack(
        [F.pad(side, (0, 1), value=last) for side, last in zip(sides, central, strict=True)], 2
    )  # [B, tries + 1, 2]
    limits = candidates.new_tensor([height, width])
    first = ((candidates > 0) & (candidates <= limits)).all(2).int().argmax(1)
    size = candidates[torch.arange(len(ids), device=ids.device), first]
    anywhere = (draws[:, -2:] * (limits - size + 1)).floor()
    centre = ((limits - size) / 2).floor()
    corner = torch.where((first == TRIES)[:, None], centre, anywhere)
    return torch.cat([corner, size], 1).long()


def resized_crops(images_BCHW: Tensor, boxes_B4: Tensor, mirrored_B: Tensor) -> Tensor:
    """Every image's box enlarged to the image's own size, bilinearly, and mirrored where asked: [B, C, H, W].

    The same as torchvision's `resized_crop`; its antialiasing only acts where an image shrinks, which none does here.

    Args:
        images_BCHW: float.
        boxes_B4: int64 [B, 4] of top, left, height, width.
        mirrored_B: bool [B].
    """
    height, width = images_BCHW.shape[2:]
    top, left, box_height, box_width = boxes_B4.double().T[..., None]
    rows = _places(height, top, box_height)
    columns = _places(width, left, box_width)
    columns = torch.where(mirrored_B[:, None], columns.flip(1), columns)
    size = (len(boxes_B4), height, width)
    grid = torch.stack([columns[:, None, :].expand(size), rows[:, :, None].expand(size)], 3)
    return F.grid_sample(images_BCHW, grid.to(images_BCHW.dtype), padding_mode="border", align_corners=False)


def shuffle_patches(images_BCHW: Tensor, orders_B2F: Tensor) -> Tensor:
    """Images as grids of F x F patches, with the columns and the rows of the grid in a new order (RDED).

    Args:
        images_BCHW: sides are multiples of F.
        orders_B2F: int64 [B, 2, F]: which row, and which column, of patches comes to each place.
    """
    factor = orders_B2F.shape[2]
    indices = []
    for side, order in zip(images_BCHW.shape[2:], orders_B2F.unbind(1), strict=True):
        patch = side // factor
        within = torch.arange(patch, device=order.device)
        indices.append((order[:, :, None] * patch + within).flatten(1))
    rows, columns = indices
    samples = torch.arange(len(images_BCHW), device=images_BCHW.device)[:, None, None]
    return images_BCHW.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def symmetric_beta(uniforms: Tensor, alpha: float) -> Tensor:
    """Uniform numbers in [0, 1) as draws from Beta(alpha, alpha), through the inverse of its distribution function."""
    if alpha == 1:
        return uniforms
    from scipy.special import betaincinv  # here, because it is seldom needed

    return torch.from_numpy(betaincinv(alpha, alpha, uniforms.double().cpu().numpy())).to(uniforms)


def pasted_boxes(shares_B: Tensor, row_B: Tensor, column_B: Tensor, height: int, width: int) -> Tensor:
    """Which pixels CutMix (Yun et al., ICCV 2019) takes from the other image: bool [B, H, W].

    A box of 1 - share of the area, in the image's ratio, about any pixel; what lies outside is cut off, so that the
    share that remains is to be counted.

    Args:
        shares_B: float64 in [0, 1].
        row_B: float64 in [0, 1), where the box's centre lies.
        column_B: the same across.
        height: H.
        width: W.
    """
    cut = (1 - shares_B).sqrt()
    return _within(height, cut, row_B)[:, :, None] & _within(width, cut, column_B)[:, None, :]


def _within(side: int, cut_B: Tensor, place_B: Tensor) -> Tensor:
    """Which pixels of an axis lie in boxes of a part of it about a place: bool [B, side]."""
    centre, reach = (side * place_B).floor()[:, None], ((side * cut_B).floor() / 2).floor()[:, None]
    pixels = torch.arange(side, device=cut_B.device)
    return (centre - reach <= pixels) & (pixels < centre + reach)


def _central_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest box within the ratios."""
    low, high = RATIOS
    return min(height, round(width / low)), min(width, round(height * high))


def _places(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Where the pixels of an enlarged box lie in the image, [B, side], counted as grid_sample does (-1 to 1)."""
    pixels = torch.arange(side, device=start.device, dtype=start.dtype)
    inside = ((pixels + 0.5) * length / side - 0.5).clamp(min=0).minimum(length - 1)
    return (2 * (start + inside) + 1) / side - 1
