"""Fitting a preprocessing map on training images, in memory or a few at a time; the maps: `preprocessing.py`.

Letters: N or B images, C H W, D = C * H * W.
"""

import math
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from raydd.core.errors import ConfigError, DataError
from raydd.data.config import DataConfig
from raydd.data.image_set import ImageSet
from raydd.data.preprocessing import ZCA, ZCA_EPSILON, Identity, Preprocessing, Standardise, block_size
from raydd.data.sources.table import added_source

_CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITERATURE = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "tiny-imagenet": _IMAGENET,
    "imagenet": _IMAGENET,
    "medmnist": ((0.5,), (0.5,)),
    "imagefolder": _IMAGENET,
    "parquet": _IMAGENET,
    "huggingface": _IMAGENET,
}
"""Mean and deviation per channel, or one of each for all channels, that the papers use for a `data.source` or for its
family, whether or not they are its true ones: the published code of MTT, DATM, IDC and SRe2L has CIFAR-10's for
CIFAR-100, too, where DC has (0.5071, 0.4866, 0.4409) and (0.2673, 0.2564, 0.2762)."""

_MAX_ZCA_VALUES = 16_384  # D; the covariance takes 8 D^2 bytes: 2 GB


class PixelBlocks(Protocol):
    """Training images to fit a map on, a few in memory at a time; they are gone through as often as it takes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def blocks(self) -> Iterator[Tensor]:
        """All N as uint8 [B, C, H, W] of any B, each time in the same order."""
        ...


def fit(config: DataConfig, train: ImageSet | PixelBlocks) -> Preprocessing:
    """The map that the config names, fitted on the training images where it has anything to fit.

    Images that are read in blocks give the same bits as all of them in memory, whatever the blocks.

    Raises:
        ConfigError: literature constants for a source that has none, or ZCA on images too large for it.
        DataError: a channel is constant, or there is only one image to whiten by.
    """
    match config.preprocess:
        case "none":
            return Identity()
        case "standardise" if config.statistics == "literature":
            return literature_constants(config.source, channels=train.shape[0])
        case "standardise":
            return fit_standardise(_pixels(train))
        case "zca":
            return fit_zca(_pixels(train))


def literature_constants(source: str, channels: int) -> Standardise:
    """The papers' constants for a `data.source`; a ConfigError where there are none."""
    added = added_source(source)
    known = LITERATURE.get(source.partition(":")[0]) if added is None else added.statistics
    mean, std = known or ((), ())
    if len(mean) not in (1, channels):
        raise ConfigError(
            "data.statistics",
            f"the papers have constants for images of {', '.join(LITERATURE)}, in RGB where these are coloured, "
            f"not for {source!r} with {channels} channel(s); set it to computed",
        )
    mean_C, std_C = (torch.tensor(values, dtype=torch.float64).expand(channels).clone() for values in (mean, std))
    return Standardise(mean_C, std_C)


def fit_standardise(images: Tensor | PixelBlocks) -> Standardise:
    """Mean and deviation (over all pixels, divided by their number) of each channel of uint8 [N, C, H, W].

    Both follow in float64 from exact counts of the 256 values.
    """
    counts = reduce(torch.add, map(_counts, _blocks(images))).double()
    if ((counts > 0).sum(1) < 2).any():
        raise DataError("a colour channel has the same value in all training images; set data.preprocess to none")
    values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean_C = share @ values
    std_C = (share * (values - mean_C[:, None]).square()).sum(1).sqrt()
    return Standardise(mean_C, std_C)


def fit_zca(images: Tensor | PixelBlocks, epsilon: float = ZCA_EPSILON) -> ZCA:
    """Whitening by the covariance (divided by N - 1) of uint8 [N, C, H, W], added up in float64, kept as float32.

    Images are gone through twice, for the mean and for the covariance around it.
    """
    size_N, size_D = len(images), math.prod(images.shape[-3:])
    if size_D > _MAX_ZCA_VALUES:
        raise ConfigError(
            "data.preprocess",
            f"zca of {size_D} values per image takes a matrix of {8e-9 * size_D**2:.0f} GB; "
            "set it to standardise, or lower data.image_size",
        )
    if size_N < 2:
        raise DataError("zca needs at least 2 training images; set data.preprocess to standardise")
    mean_D = reduce(torch.add, (x_BD.sum(0) / size_N for x_BD in _flattened(images)))
    covariance_DD = mean_D.new_zeros(size_D, size_D)
    for x_BD in _flattened(images):
        centred_BD = x_BD - mean_D
        covariance_DD.addmm_(centred_BD.T, centred_BD, alpha=1 / (size_N - 1))
    eigenvalues_D, U_DD = torch.linalg.eigh(covariance_DD)
    scale_D = (eigenvalues_D.clamp(min=0) + epsilon).sqrt()  # rounding makes a zero slightly negative
    whiten_DD, colour_DD = (U_DD / scale_D) @ U_DD.T, (U_DD * scale_D) @ U_DD.T
    return ZCA(mean_D.float(), whiten_DD.float(), colour_DD.float(), epsilon)


def _pixels(train: ImageSet | PixelBlocks) -> Tensor | PixelBlocks:
    return train.images if isinstance(train, ImageSet) else train


def _counts(block_BCHW: Tensor) -> Tensor:
    """How often each of the 256 values is in each channel, int64 [C, 256]."""
    return torch.stack([channel.flatten().bincount(minlength=256) for channel in block_BCHW.unbind(1)])


def _flattened(images: Tensor | PixelBlocks) -> Iterator[Tensor]:
    """Consecutive images in units of [0, 1], float64 [B, D]."""
    return (block.flatten(1).double() / 255 for block in _blocks(images))


def _blocks(images: Tensor | PixelBlocks) -> Iterator[Tensor]:
    """Consecutive images, the same B of them at a time wherever they come from; fewer at the end."""
    size = block_size(images.shape[-3:])
    return iter(images.split(size)) if isinstance(images, Tensor) else _regrouped(images.blocks(), size)


def _regrouped(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same rows in blocks of one size; those at the end may be fewer."""
    held: list[Tensor] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) > size:
            *whole, rest = torch.cat(held).split(size)
            yield from whole
            held = [rest]
    if held:
        yield torch.cat(held)
