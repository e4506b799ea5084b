"""Real images in whatever form they come, as networks that are trained on a distilled set take them.

Letters: B images, C H W of the set's.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.decoding import decode
from raydd.data.listing import Item
from raydd.data.preprocessing import Preprocessing

Pixels = Image.Image | Tensor | np.ndarray[Any, Any]
"""An image, or several; see `DistilledDataset.transform`."""
_NEARLY = 0.05
"""How far interpolation may have led beyond [0, 1]."""


def transformed(image: Pixels, preprocessing: Preprocessing, shape: tuple[int, int, int]) -> Tensor:
    """In network space, float32 [C, H, W] or [B, C, H, W]; see `DistilledDataset.transform`.

    Args:
        image: one or several.
        preprocessing: the way into network space.
        shape: C, H, W of the set's images.

    Raises:
        DataError: images are of another size or type, or have other channels, and cannot be brought to these.
    """
    if isinstance(image, np.ndarray):
        image = _as_tensor_or_picture(image, shape)
    several = isinstance(image, Tensor) and image.ndim == 4
    if isinstance(image, Tensor):
        pixels = image if several else image[None]
    elif isinstance(image, Image.Image):
        pixels = _opened(image, shape)
    else:
        raise DataError(f"the image is a {type(image).__name__}; give a PIL image, a tensor or a numpy array")
    if tuple(pixels.shape[1:]) != shape:
        raise DataError(f"the image is of {tuple(pixels.shape[1:])}, but those of the set are of {shape}; resize it")
    _require_pixels(pixels)
    mapped = preprocessing.forward(pixels.float() if pixels.is_floating_point() else pixels)
    return mapped if several else mapped[0]


def _opened(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """A picture resized and cropped as `data.image_size` does it, uint8 [1, C, H, W]."""
    channels, height, width = shape
    seen = image.convert("L") if channels == 1 and image.mode in ("RGB", "RGBA", "P") else image.copy()
    return decode([Item("the image", lambda: seen)], 1, height if height == width else None, channels)


def _as_tensor_or_picture(array: np.ndarray[Any, Any], shape: tuple[int, int, int]) -> Tensor | Image.Image:
    """An array with its channels in front; one 8-bit image of another size as a picture, which can be resized."""
    channels, height, width = shape
    found = torch.from_numpy(np.ascontiguousarray(array))
    if channels == 1 and array.ndim in (2, 3) and array.shape[-2:] == (height, width):
        return found[..., None, :, :]  # [H, W], and [B, H, W] of grey images
    if array.ndim in (3, 4) and array.shape[-3:] == (height, width, channels):
        return found.movedim(-1, -3)
    if array.ndim in (3, 4) and array.shape[-3:] == shape:
        return found
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        return Image.fromarray(array)
    wanted = f"{(height, width, channels)} or {shape}" + f" or {(height, width)}" * (channels == 1)
    raise DataError(
        f"the array is of {array.shape}, but images of the set are of {wanted}, several with their number in front; "
        "resize them, or give a PIL image"
    )


def _require_pixels(pixels: Tensor) -> None:
    if pixels.dtype == torch.uint8:
        return
    if not pixels.is_floating_point():
        raise DataError(f"pixels are of {pixels.dtype}; give uint8, or floating point from 0 to 1")
    low, high = (float(bound) for bound in pixels.aminmax()) if pixels.numel() else (0.0, 0.0)
    if not (low >= -_NEARLY and high <= 1 + _NEARLY):
        raise DataError(
            f"pixels of floating point are from 0 to 1, these from {low:g} to {high:g}; divide them by what is white"
        )
