"""The synthetic images, class by class, before and after distilling.

Letters: M synthetic images, K classes, C H W.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from PIL import Image
from torch import Tensor

from raydd.report.wording import class_title, in_words
from raydd.sets.preview import as_picture
from raydd.sets.synthetic import SyntheticSet

_MOST_PICTURES = 200
_MOST_OF_A_CLASS = 10
_MOST_COLUMNS = 10
_MOST_OF_A_CELL = 4
_MOST_OF_A_LABEL = 5
SHOWN_PIXELS = 96
"""The side of an image on the page, before it is enlarged."""
_GAP, _PAGE = 4, 1040
"""Between images, and the width that a page has for them."""
_MOST_SIDE, _ALL_PIXELS = 256, 1_500_000
"""Of one image, and of all: they are nearly all that the page weighs."""


@dataclass(frozen=True)
class Picture:
    """One image of the page."""

    source: str
    """A data URI."""
    title: str
    """Its class, and which image of how many."""
    label: str
    """What its soft label says; empty where it is hard."""


@dataclass(frozen=True)
class ClassRow:
    """The images of one class."""

    name: str
    before: list[Picture]
    after: list[Picture]
    label: str
    """What its labels say on average; empty where they are hard."""


@dataclass(frozen=True)
class Gallery:
    """All classes that are shown."""

    classes: list[ClassRow]
    columns: int
    note: str
    """Which images are shown, where not all are."""
    is_coarse: bool
    """Whether images have fewer pixels than the page gives them."""

    @property
    def width(self) -> int:
        """Of a class, in pixels: its images side by side, as far as the page is wide."""
        strip = self.columns * (SHOWN_PIXELS + _GAP) - _GAP
        both = 2 * strip + (_GAP + 2 if self.columns == 1 else 20)
        return min(both if self.classes[0].before else max(strip, 128), _PAGE)


@dataclass(frozen=True)
class StageRow:
    """The images of one stage."""

    name: str
    note: str
    """How many images of each class it made, and all stages up to it."""
    classes: list[list[Picture]]


@dataclass(frozen=True)
class StageGallery:
    """The stages one below the other, with a column for each class that is shown."""

    class_names: tuple[str, ...]
    rows: list[StageRow]
    across: int
    """Images side by side in a cell."""
    note: str
    is_coarse: bool
    """As of a gallery."""


def gallery(before: Sequence[SyntheticSet], after: SyntheticSet) -> Gallery:
    """Show as many images as a page can hold, the same number of every class.

    Args:
        before: where each stage started from; may be empty.
        after: the result.
    """
    classes = min(after.num_classes, _MOST_PICTURES)
    each = max(1, min(_MOST_OF_A_CLASS, _MOST_PICTURES // classes, after.images_per_class))
    side = _side(classes * each * (2 if before else 1))
    old = [_by_class(one, classes, each, side, "before") for one in before]
    new = _by_class(after, classes, each, side, "after" if before else "")
    rows = []
    for k, name in enumerate(after.class_names[:classes]):
        starts = [picture for one in old for picture in one[k]][:each]
        rows.append(ClassRow(class_title(name), starts, new[k], _class_label(after, k)))
    return Gallery(rows, each, _shown(after, classes, each, after.images_per_class), _is_coarse(after))


def stage_gallery(synthetic: SyntheticSet) -> StageGallery | None:
    """Show the stages of a set, the same classes of each; None where there is only one stage."""
    numbers = synthetic.stage.unique().tolist()
    if len(numbers) < 2:
        return None
    parts = [_of_stage(synthetic, number) for number in numbers]
    classes = min(synthetic.num_classes, _MOST_COLUMNS)
    largest = max(part.images_per_class for part in parts)
    each = max(1, min(_MOST_OF_A_CELL, _MOST_PICTURES // (classes * len(parts)), largest))
    so_far = accumulate(part.images_per_class for part in parts)
    side = _side(classes * each * len(parts))
    rows = [
        StageRow(
            name := f"stage {number}",
            _growth(part.images_per_class, total),
            _by_class(part, classes, each, side, name),
        )
        for number, part, total in zip(numbers, parts, so_far, strict=True)
    ]
    return StageGallery(
        tuple(map(class_title, synthetic.class_names[:classes])),
        rows,
        math.ceil(math.sqrt(each)),
        _shown(synthetic, classes, each, largest),
        _is_coarse(synthetic),
    )


def _of_stage(synthetic: SyntheticSet, number: int) -> SyntheticSet:
    """The images that one stage made."""
    own = synthetic.stage == number
    soft = synthetic.soft_labels
    return replace(
        synthetic,
        images=synthetic.images[own],
        labels=synthetic.labels[own],
        soft_labels=None if soft is None else soft[own],
        stage=synthetic.stage[own],
    )


def _growth(images_per_class: int, so_far: int) -> str:
    own = f"{images_per_class} {'image' if images_per_class == 1 else 'images'} per class"
    return own if images_per_class == so_far else f"{own}, {so_far} so far"


def _shown(synthetic: SyntheticSet, classes: int, each: int, images_per_class: int) -> str:
    """Which images are shown, where not all are."""
    shown = []
    if each < images_per_class:
        shown.append(f"the first {each} of {images_per_class} images per class")
    if classes < synthetic.num_classes:
        shown.append(f"the first {classes} of {synthetic.num_classes} classes")
    return f"Shown: {', '.join(shown)}." if shown else ""


def _class_label(synthetic: SyntheticSet, k: int) -> str:
    if (shares := synthetic.shares) is None:
        return ""
    own = shares[synthetic.labels == k]
    return in_words(own.mean(0), synthetic.class_names) if len(own) else ""


def _by_class(synthetic: SyntheticSet, classes: int, each: int, side: int, when: str) -> list[list[Picture]]:
    pixels = synthetic.pixels()
    chosen = [torch.nonzero(synthetic.labels == k).flatten()[:each].tolist() for k in range(classes)]
    return [
        [
            Picture(_data_uri(pixels[i], side), _title(synthetic, k, when, number, len(own)), _label(synthetic, i))
            for number, i in enumerate(own, start=1)
        ]
        for k, own in enumerate(chosen)
    ]


def _title(synthetic: SyntheticSet, k: int, when: str, number: int, count: int) -> str:
    which = f"image {number}" if count > 1 else ""
    return ", ".join(filter(None, (class_title(synthetic.class_names[k]), when, which)))


def _label(synthetic: SyntheticSet, i: int) -> str:
    """What the soft label of an image says."""
    if (shares := synthetic.shares) is None:
        return ""
    return in_words(shares[i], synthetic.class_names, _MOST_OF_A_LABEL)


def _side(pictures: int) -> int:
    """The most pixels that a side of each of so many pictures may have."""
    return max(SHOWN_PIXELS, min(_MOST_SIDE, int(math.sqrt(_ALL_PIXELS / pictures))))


def _is_coarse(synthetic: SyntheticSet) -> bool:
    return max(synthetic.images.shape[2:]) < SHOWN_PIXELS


def _data_uri(pixels_CHW: Tensor, side: int) -> str:
    """A PNG, shrunk where it is larger than a page can hold."""
    image = as_picture(pixels_CHW)
    image.thumbnail((side, side), Image.Resampling.BOX)
    png = io.BytesIO()
    image.save(png, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
