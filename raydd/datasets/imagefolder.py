"""Image files in one folder per class."""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from raydd.datasets.listing import Item, Listing, folder_name, open_encoded
from raydd.errors import DataError
from raydd.storage import Folder


def imagefolder(root: Folder) -> tuple[Listing, Listing]:
    """The splits `root/train/<class>/*` and `root/test/<class>/*` (`root/val` where there is no `root/test`).

    The dataset is named by its root; classes are in the order of their folders' names, images in the order of their
    files' names. Files whose suffix no image format has are passed over.

    Raises:
        DataError: a split or its class folders are missing.
    """
    test = "val" if "test" not in root.folders() and "val" in root.folders() else "test"
    return _split(root, "train"), _split(root, test)


def _split(root: Folder, split: str) -> Listing:
    folder = root / split
    class_names = tuple(folder.folders())
    if not class_names:
        raise DataError(
            f"{folder.uri}: there are no class folders; data.root must hold train/<class>/* and test/<class>/* (or val)"
        )
    suffixes = Image.registered_extensions()
    files = [
        (label, class_name, file)
        for label, class_name in enumerate(class_names)
        for file in (folder / class_name).files()
        if PurePosixPath(file).suffix.lower() in suffixes
    ]

    def items(rows: Tensor) -> Iterator[Item]:
        for row in rows.tolist():
            _, class_name, file = files[row]
            yield Item((folder / class_name / file).uri, partial(_open, folder / class_name, file))

    labels = torch.tensor([label for label, _, _ in files], dtype=torch.int64)
    return Listing(folder_name(root), folder.uri, class_names, labels, items)


def _open(folder: Folder, file: str) -> Image.Image:
    return open_encoded(folder.read(file))
