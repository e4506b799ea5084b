"""A few images of every class of a set, as one small picture.

Letters: M synthetic images, K classes, C H W.
"""

import base64
import io
import math
from dataclasses import dataclass, replace

import torch
from PIL import Image

from raydd.sets.synthetic import SyntheticSet

_MOST_CLASSES, _MOST_OF_A_CLASS = 10, 4
_GAP = 1


@dataclass(frozen=True)
class Mosaic:
    """A class a column."""

    source: str
    """A data URI."""
    class_names: tuple[str, ...]
    each: int
    """Images of a class."""
    note: str
    """What is not shown."""


def mosaic(synthetic: SyntheticSet, most_pixels: int) -> Mosaic:
    """Show images of the first classes, those of a class at equal steps, so that every stage has some.

    Args:
        synthetic: the set.
        most_pixels: of the picture, whose images are shrunk accordingly.
    """
    classes = min(synthetic.num_classes, _MOST_CLASSES)
    each = max(1, min(_MOST_OF_A_CLASS, synthetic.images_per_class))
    rows = [_at_equal_steps(torch.nonzero(synthetic.labels == k).flatten(), each) for k in range(classes)]
    shown = torch.cat(rows)
    pixels = replace(
        synthetic,
        images=synthetic.images[shown],
        labels=synthetic.labels[shown],
        soft_labels=None,
        stage=synthetic.stage[shown],
    ).pixels()
    channels, height, width = pixels.shape[1:]
    shrunk = min(1.0, math.sqrt(most_pixels / (classes * each)) / max(height, width))
    high, wide = max(1, int(height * shrunk)), max(1, int(width * shrunk))
    picture = Image.new("RGBA", (classes * (wide + _GAP) - _GAP, each * (high + _GAP) - _GAP))
    place = 0
    for column, own in enumerate(rows):
        for row in range(len(own)):
            array = pixels[place].permute(1, 2, 0).numpy()
            tile = Image.fromarray(array[:, :, 0] if channels == 1 else array)
            tile = tile.resize((wide, high), Image.Resampling.BOX) if shrunk < 1 else tile
            picture.paste(tile, (column * (wide + _GAP), row * (high + _GAP)))
            place += 1
    png = io.BytesIO()
    picture.save(png, format="PNG")
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return Mosaic(source, synthetic.class_names[:classes], each, _note(synthetic, classes, each))


def _at_equal_steps(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`count` of them, or all where there are fewer."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]


def _note(synthetic: SyntheticSet, classes: int, each: int) -> str:
    said = []
    if each < synthetic.images_per_class:
        said.append(f"{each} of {synthetic.images_per_class} images per class")
    if classes < synthetic.num_classes:
        said.append(f"the first {classes} of {synthetic.num_classes} classes")
    return ", ".join(said)
