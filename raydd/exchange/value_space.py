"""Whether images can lie in the network space that is claimed for them.

No file of other code says how its images were normalised or whitened. Distilled images stray from the real ones, in
scale most of all; so what is refused is only what no such image can be.

Letters: M synthetic images, C channels.
"""

from typing import Any, Final

import torch
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.images import Images
from raydd.data.prepared import PreparedData

LARGEST_SCALE: Final = 5.0
"""Deviation of a channel over that of the real images."""
LARGEST_SHIFT: Final = 1.5
"""Distance of the means of a channel in deviations of the real images."""
OUTSIDE: Final = 0.25
"""Share of the values of plain pixels that may lie below -0.5 or above 1.5."""
_AT_ONCE: Final = 256  # images


def check(images_MCHW: Tensor, data: PreparedData, where: str) -> dict[str, Any]:
    """Compare with the real images in their network space; returns mean and deviation of each channel, for the card.

    Raises:
        DataError: they cannot lie there; names the place, and where they seem to lie.
    """
    own_mean, own_std = _moments(images_MCHW)
    mean, std = _moments(data.train.images)
    shift = float(((own_mean - mean).abs() / std).max())
    scale = float((own_std / std).max())
    if data.preprocessing.name == "none":
        misplaced = float(((images_MCHW < -0.5) | (images_MCHW > 1.5)).float().mean()) > OUTSIDE
    else:
        misplaced = _are_pixels(images_MCHW)
    if misplaced or shift > LARGEST_SHIFT or scale > LARGEST_SCALE:
        raise DataError(
            f"{where}: these values, of mean {_list(own_mean)} and deviation {_list(own_std)} by channel, are not "
            f"images under data.preprocess {data.preprocessing.name}, of which the real ones have mean {_list(mean)} "
            f"and deviation {_list(std)}; they look like {_likely(images_MCHW, own_mean, own_std)}"
        )
    return {"mean": own_mean.tolist(), "std": own_std.tolist(), "data_mean": mean.tolist(), "data_std": std.tolist()}


def _moments(images_MCHW: Images | Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, float64 [C]."""
    size, channels, height, width = images_MCHW.shape
    sums = torch.zeros(2, channels, dtype=torch.float64)
    for batch in images_MCHW.split(_AT_ONCE):
        sums += torch.stack([batch.double().sum((0, 2, 3)), batch.double().square().sum((0, 2, 3))])
    mean, square = sums / (size * height * width)
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def _are_pixels(images_MCHW: Tensor) -> bool:
    return float(images_MCHW.min()) >= 0 and float(images_MCHW.max()) <= 1


def _likely(images_MCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> str:
    low, high = float(images_MCHW.min()), float(images_MCHW.max())
    if _are_pixels(images_MCHW):
        return "pixels in [0, 1]: say --preprocess none"
    if low >= 0 and 2 < high <= 255:
        return "pixels from 0 to 255: divide them by 255 and say --preprocess none, or import image files"
    if float(mean_C.abs().max()) < 1 and 0.6 < float(std_C.mean()) < 4:
        return "standardised images: say --preprocess standardise"
    if float(mean_C.abs().max()) < 0.5 and float(std_C.mean()) <= 0.6:
        return "whitened images: say --preprocess zca"
    return "nothing that is known"


def _list(values_C: Tensor) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values_C.tolist()) + "]"
