"""Images as 8-bit PNG files, and how they are called.

Letters: M images, C H W.
"""

import io

from torch import Tensor
from torchvision.transforms.functional import to_pil_image


def png(pixels_CHW: Tensor) -> bytes:
    """A PNG file of uint8 [C, H, W]: grey, RGB or RGBA for 1, 3 or 4 channels."""
    buffer = io.BytesIO()
    to_pil_image(pixels_CHW).save(buffer, format="PNG")
    return buffer.getvalue()


def class_folders(num_classes: int) -> list[str]:
    """The number of each class with as many zeros in front as keep them in order."""
    width = max(5, len(str(num_classes - 1)))
    return [f"{label:0{width}d}" for label in range(num_classes)]


def picture_files(counts: list[int]) -> list[tuple[str, str]]:
    """Class folder and file name of every image, class after class, in the order of their names.

    Args:
        counts: the number of images of each class.
    """
    width = max(5, len(str(max(counts) - 1)))
    folders = class_folders(len(counts))
    return [
        (folder, f"{number:0{width}d}.png")
        for folder, count in zip(folders, counts, strict=True)
        for number in range(count)
    ]
