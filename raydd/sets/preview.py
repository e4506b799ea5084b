"""Pictures of sets: what people look at first.

Letters: M images, C H W.
"""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_LEAST_SIDE: Final = 64
"""Pixels of an image's height in a preview, at least; it is enlarged by a whole number."""
_NO_LETTER: Final = "\uffff"
"""No font has it."""
_LETTERS, _TEXT = 24, 16
"""The most letters of a class name, and their height in pixels."""


def preview(
    pixels_MCHW: Tensor, labels_M: Tensor, class_names: Sequence[str] = (), columns: int = 10, rows: int = 100
) -> bytes:
    """A PNG of the images: one row a class, at most `rows` of them and at most `columns` images of each, on white.

    Args:
        pixels_MCHW: uint8 [M, C, H, W].
        labels_M: int64 [M].
        class_names: stand to the left of the rows, by label; nothing does where there are none.
        columns: the most images shown of one class.
        rows: the most classes shown, the first ones.
    """
    classes = labels_M.unique()[:rows]
    shown = [pixels_MCHW[labels_M == label][:columns] for label in classes]
    _, channels, height, width = pixels_MCHW.shape
    gap, across = 1, max(len(row) for row in shown)
    grid = torch.full(
        (channels, len(shown) * (height + gap) + gap, across * (width + gap) + gap), 255, dtype=torch.uint8
    )
    for i, row in enumerate(shown):
        for j, image in enumerate(row):
            top, left = gap + i * (height + gap), gap + j * (width + gap)
            grid[:, top : top + height, left : left + width] = image
    scale = max(1, _LEAST_SIDE // height)
    picture = as_picture(grid.repeat_interleave(scale, 1).repeat_interleave(scale, 2))
    if class_names:
        picture = _named(picture, [class_names[label] for label in classes.tolist()])
    return encoded(picture)


def as_picture(pixels_CHW: Tensor) -> Image.Image:
    """Pixels, uint8 [C, H, W], as a picture: grey where C is 1."""
    array = pixels_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def encoded(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _named(picture: Image.Image, names: Sequence[str]) -> Image.Image:
    """The picture with a name to the left of each of its rows, which are equally high.

    Where the font lacks letters of a name, it is the class's number.
    """
    height = picture.height / len(names)
    font = ImageFont.truetype(_font_file(), min(_TEXT, max(8, int(height) - 2)))
    short = [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…" for name in names]
    short = [name if _is_drawn(name, font) else f"class {number}" for number, name in enumerate(short)]
    margin = round(max(font.getlength(name) for name in short)) + _TEXT
    whole = Image.new(picture.mode, (margin + picture.width, picture.height), "white")
    whole.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(whole)
    for number, name in enumerate(short):
        draw.text((_TEXT // 2, (number + 0.5) * height), name, fill="black", font=font, anchor="lm")
    return whole


def _font_file() -> str:
    """The one that matplotlib brings; Pillow's own knows no accents. Nothing of matplotlib is loaded."""
    found = find_spec("matplotlib")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


def _is_drawn(name: str, font: ImageFont.FreeTypeFont) -> bool:
    """Whether the font has all letters, and no box in the place of one."""
    box = bytes(font.getmask(_NO_LETTER))
    return all(letter.isspace() or bytes(font.getmask(letter)) != box for letter in name)
