"""What PDD leaves behind: a folder for each stage, with the union of the stages so far as `images_best.pt`.

Folders are in the order of the first number in their names (`interval1_epoch1-5`, `interval2_epoch6-10`). Sets in which
every folder has the images of its own stage alone (SeqMatch) are read as well: nobody's images begin with those of the
stage before then.

Letters: N images.
"""

import re
from dataclasses import replace
from pathlib import Path

import torch

from raydd.core.errors import DataError
from raydd.data.prepared import PreparedData
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign
from raydd.exchange.triples import images_file, read_one


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The images that each stage added, in order.

    Raises:
        DataError: there are no stages, their order is not to be seen, or some hold earlier stages' images and others
            do not.
    """
    folders = _ordered(source)
    unions = [read_one(images_file(folder)) for folder in folders]
    begins = [_begins_with(later, earlier) for earlier, later in zip(unions, unions[1:], strict=False)]
    if all(begins):
        return unions[:1] + [
            _without_first(later, len(earlier.images)) for earlier, later in zip(unions, unions[1:], strict=False)
        ]
    if any(begins):
        stage = folders[1 + begins.index(False)]
        raise DataError(f"{stage}: does not begin with the images of the stage before, though other stages do")
    return unions


def _ordered(source: Path) -> list[Path]:
    folders = [folder for folder in sorted(source.iterdir()) if folder.is_dir()] if source.is_dir() else []
    folders = [folder for folder in folders if any(folder.glob("images*.pt"))]
    numbers = [re.search(r"\d+", folder.name) for folder in folders]
    order = [int(number[0]) for number in numbers if number]
    if not folders or len(order) < len(folders) or len(set(order)) < len(order):
        names = ", ".join(folder.name for folder in folders) or "none"
        raise DataError(
            f"{source}: needs a folder for each stage with images_best.pt in it, whose name begins with the stage's "
            f"number or holds it first, such as interval1_epoch1-5 (found: {names}); rename them"
        )
    return [folder for _, folder in sorted(zip(order, folders, strict=True))]


def _begins_with(later: Foreign, earlier: Foreign) -> bool:
    count = len(earlier.images)
    return (
        len(later.images) > count
        and later.images.shape[1:] == earlier.images.shape[1:]
        and torch.equal(later.images[:count], earlier.images)
    )


def _without_first(part: Foreign, count: int) -> Foreign:
    labels = None if part.labels is None else part.labels[count:]
    return replace(part, images=part.images[count:], labels=labels)
