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

from raydd.sets.synthetic import SyntheticSet

_MOST_PICTURES = 200
_MOST_OF_A_CLASS = 10
_MOST_PIXELS = 96
_MOST_COLUMNS = 10
_MOST_OF_A_CELL = 9


@dataclass(frozen=True)
class Picture:
    """One image of the page."""

    source: str
    """A data URI."""
    title: str


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


def gallery(before: Sequence[SyntheticSet], after: SyntheticSet) -> Gallery:
    """Show as many images as a page can hold, the same number of every class.

    Args:
        before: where each stage started from; may be empty.
        after: the result.
    """
    classes = min(after.num_classes, _MOST_PICTURES)
    each = max(1, min(_MOST_OF_A_CLASS, _MOST_PICTURES // classes, after.images_per_class))
    old, new = [_by_class(one, classes, each) for one in before], _by_class(after, classes, each)
    rows = []
    for k, name in enumerate(after.class_names[:classes]):
        starts = [picture for one in old for picture in one[k]][:each]
        rows.append(ClassRow(name, starts, new[k], _class_label(after, k)))
    return Gallery(rows, each, _shown(after, classes, each, after.images_per_class))


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
    rows = [
        StageRow(f"stage {number}", _growth(part.images_per_class, total), _by_class(part, classes, each))
        for number, part, total in zip(numbers, parts, so_far, strict=True)
    ]
    return StageGallery(
        synthetic.class_names[:classes], rows, math.ceil(math.sqrt(each)), _shown(synthetic, classes, each, largest)
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


def most_likely(logits_K: Tensor, class_names: Sequence[str], count: int = 3) -> str:
    """Put a soft label into words, such as "cat 61 %, dog 20 %, frog 8 %"."""
    return _in_words(logits_K.softmax(0), class_names, count)


def _in_words(probabilities_K: Tensor, class_names: Sequence[str], count: int) -> str:
    top = probabilities_K.topk(min(count, len(class_names)))
    named = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return ", ".join(f"{class_names[k]} {probability:.0%}" for k, probability in named).replace(
        "%", "\N{NO-BREAK SPACE}%"
    )


def _class_label(synthetic: SyntheticSet, k: int) -> str:
    if synthetic.soft_labels is None:
        return ""
    own = synthetic.soft_labels[synthetic.labels == k]
    return _in_words(own.softmax(1).mean(0), synthetic.class_names, 3) if len(own) else ""


def _by_class(synthetic: SyntheticSet, classes: int, each: int) -> list[list[Picture]]:
    pixels = synthetic.pixels()
    chosen = [torch.nonzero(synthetic.labels == k).flatten()[:each].tolist() for k in range(classes)]
    return [[Picture(_data_uri(pixels[i]), _title(synthetic, i)) for i in own] for own in chosen]


def _title(synthetic: SyntheticSet, i: int) -> str:
    if synthetic.soft_labels is None:
        return synthetic.class_names[int(synthetic.labels[i])]
    return most_likely(synthetic.soft_labels[i], synthetic.class_names)


def _data_uri(pixels_CHW: Tensor) -> str:
    """A PNG, shrunk where the page would not show all its pixels."""
    array = pixels_CHW.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.BOX)
    png = io.BytesIO()
    image.save(png, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
