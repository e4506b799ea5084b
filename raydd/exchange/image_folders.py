"""Sets of image files in a folder for each class: `00000/` of RDED, `newCCC/classCCC_idIII.jpg` of SRe2L.

A folder's class is its number, or it bears the class's name; anything else has to be said. Images must have the
dataset's size: they are not resized. Raydd's own folders may have `soft_labels.npy` beside, logits in this order.

Letters: N images, K classes, C H W.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.decoding import decode
from raydd.data.image_files import image_files
from raydd.data.prepared import PreparedData
from raydd.data.sources.imagefolder import listing_of
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign
from raydd.exchange.imagefolder_out import SOFT_LABELS
from raydd.exchange.tensor_files import array
from raydd.storage import Folder
from raydd.storage.foreign_files import guarded_file

_NUMBERED: Final = re.compile(r"(?:new)?(\d+)")


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The images below a folder, those of a class by the names of their files, in the data's network space.

    Raises:
        DataError: folders are not those of the dataset's classes, or images cannot be decoded or have another size.
    """
    if not source.is_dir():
        raise DataError(f"{source}: is not a folder; name the one that holds a folder for each class")
    root = Folder.at(source)
    names = root.folders()
    classes = _classes(names, data, answers, source)
    files = [
        (label, root / name, file)
        for name, label in zip(names, classes, strict=True)
        for file in image_files(root / name)
    ]
    if not files:
        raise DataError(f"{source}: there are no image files in its folders")
    listing = listing_of(source.name, str(source), data.class_names, files)
    soft = _soft_labels(source / SOFT_LABELS)
    pixels = decode(listing.items(torch.arange(len(files))), len(files), None, data.shape[0])
    part = Foreign(
        where=str(source),
        images=data.preprocessing.forward(pixels),
        labels=listing.labels if soft is None else soft,
        classes=listing.labels,
        labels_where=str(source if soft is None else source / SOFT_LABELS),
        files=(*(folder.path / file for _, folder, file in files), *([] if soft is None else [source / SOFT_LABELS])),
        kind=None if soft is None else "logits",
        from_pixels=True,
    )
    return [part]


def _soft_labels(file: Path) -> Tensor | None:
    if not file.is_file():
        return None
    with guarded_file(file, "an array of numbers"):
        return array(np.load(file, allow_pickle=False), str(file))


def _classes(names: list[str], data: PreparedData, answers: Answers, source: Path) -> list[int]:
    """The label of each folder, in the order of the files: where that is given, `Answers.class_order` maps it on."""
    if len(names) != data.num_classes:
        raise DataError(f"{source}: has {len(names)} class folders, the dataset {data.num_classes} classes")
    if answers.class_order is not None:
        return list(range(len(names)))
    if set(names) == set(data.class_names):
        return [data.class_names.index(name) for name in names]
    matches = [_NUMBERED.fullmatch(name) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    if sorted(numbers) != list(range(data.num_classes)):
        raise DataError(
            f"{source}: folders {', '.join(names[:3])}, ... are neither numbers from 0 to {data.num_classes - 1} nor "
            f"the dataset's class names ({', '.join(data.class_names[:3])}, ...); add --class-order: the dataset's "
            "class names in the order of the folders' names, with commas between them or a line each in a file"
        )
    return numbers
