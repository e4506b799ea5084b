"""Image files in one folder per class."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.image_files import folders_of_images, image_files
from raydd.data.listing import Item, Listing, folder_name, open_encoded, some
from raydd.data.place import Nested, Place
from raydd.data.splits import NamedSplits, divided, kind_of, named_splits
from raydd.storage import Folder

_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
File = tuple[int, Folder, str]
"""The label of an image file, its folder and its name."""


def imagefolder(place: Place) -> tuple[Listing, Listing]:
    """The training and the test split: the first of these.

    - `root/train/<class>/*` and `root/test/<class>/*` (a validation split where there is no test), under any name of
      `raydd.data.splits`;
    - `root/train/<class>/*` alone, or class folders directly in the root, which are divided.

    The dataset is named by its root; classes are in the order of their folders' names, images in the order of their
    files' names. Files that are no images by their suffix are passed over, and so are folders inside class folders,
    unless `data.nested` says what they are.

    Raises:
        DataError: a split or its class folders are missing, there is one class alone, or a class whose images are to
            be divided has only one.
    """
    root, splits = place.root, split_folders(place.root)
    if not folders_of_images(root) and root.files():
        raise DataError(_files_alone(root))
    if not splits.train and (splits.tests or not folders_of_images(root)):
        return _split(place, root / "train"), _split(place, root / "test")
    if not splits.train and all(map(kind_of, names := folders_of_images(root))):
        raise DataError(
            f"{root.uri}: its folders are called splits ({', '.join(names)}) and hold no folders of classes; "
            "put the images of each class into a folder of its own, as in train/<class>/*"
        )
    train = _split(place, root / splits.train[0] if splits.train else root)
    for (name,) in splits.tests:
        if not _is_unlabelled(root / name, train.class_names, place.nested):
            tested = _split(place, root / name, fewest=1)
            return train, replace(tested, division=splits.division((name,), "{}/"))
    return divided(train, splits.division(form="{}/"))


def split_folders(root: Folder) -> NamedSplits:
    """Which folders are splits: those of such names that hold folders.

    Where no training split is among them they are classes, unless there are no other folders.
    """
    names = folders_of_images(root)
    named = [name for name in names if kind_of(name) and folders_of_images(root / name)]
    found = named_splits(named)
    if found.train or len(named) == len(names):
        return found
    return NamedSplits((), (), ())


def in_class_folders(folder: Folder, class_names: Sequence[str], nested: Nested = "skip") -> list[File]:
    """The image files `folder/<class>/*`, labelled by the order of these classes, and those in folders below."""
    places = [(label, folder / class_name) for label, class_name in enumerate(class_names)]
    if nested == "images":
        places = [(label, below) for label, place in places for below in _all_below(place)]
    return [(label, place, file) for label, place in places for file in image_files(place)]


def listing_of(dataset: str, where: str, class_names: tuple[str, ...], files: Sequence[File]) -> Listing:
    """The split of these image files, in this order."""

    def items(rows: Tensor) -> Iterator[Item]:
        for row in rows.tolist():
            _, folder, file = files[row]
            yield Item((folder / file).uri, partial(_open, folder, file))

    def place(row: int) -> tuple[Folder, str]:
        return files[row][1:]

    labels = torch.tensor([label for label, _, _ in files], dtype=torch.int64)
    return Listing(dataset, where, class_names, labels, items, place)


def _files_alone(root: Folder) -> str:
    """What is wrong with a folder that holds files and no folders."""
    names = root.files()
    archives = [name for name in names if name.lower().endswith(_ARCHIVES)]
    if archives:
        return f"{root.uri}: holds no folders, but {some(archives)}; unpack it, and let data.root be what comes of it"
    number = len(image_files(root))
    held = f"{number:,} image{'s' * (number != 1)}" if number else some(names)
    return (
        f"{root.uri}: holds {held} and no folders, and there are no class folders; put the images of each class into a "
        "folder of its own, whose name is that of the class"
    )


def _is_unlabelled(folder: Folder, class_names: Sequence[str], nested: Nested) -> bool:
    """Whether the images of a split lie in one folder that is no class: where nobody knows what they show."""
    names = _names(folder, nested)
    return len(names) == 1 and names[0] not in class_names


def _split(place: Place, folder: Folder, fewest: int = 2) -> Listing:
    class_names = _class_names(folder, place.nested, fewest)
    files = in_class_folders(folder, class_names, place.nested)
    _refuse_what_is_deeper(folder, class_names, files)
    return listing_of(folder_name(place.root), folder.uri, class_names, files)


def _names(folder: Folder, nested: Nested) -> list[str]:
    return _innermost(folder) if nested == "classes" else folders_of_images(folder)


def _class_names(folder: Folder, nested: Nested, fewest: int) -> tuple[str, ...]:
    class_names = tuple(_names(folder, nested))
    if not class_names:
        raise DataError(
            f"{folder.uri}: there are no class folders; data.root must hold train/<class>/* and test/<class>/* (or "
            "val), or only one of train/<class>/* and <class>/*, which is then divided"
        )
    if len(class_names) < fewest:
        raise DataError(
            f"{folder.uri}: there is one class folder, {class_names[0]}, and nothing to tell it from; add folders of "
            "other classes, or let data.root be the folder above or below, if those are there"
        )
    return class_names


def _innermost(folder: Folder, path: str = "") -> list[str]:
    """The paths of the folders below that hold image files, or no folder."""
    found: list[str] = []
    for name in folders_of_images(folder):
        below = folder / name
        deeper = _innermost(below, f"{path}{name}/")
        found += [f"{path}{name}"] * bool(image_files(below) or not deeper) + deeper
    return found


def _all_below(folder: Folder) -> Iterator[Folder]:
    """A folder and all that are below it."""
    yield folder
    for name in folders_of_images(folder):
        yield from _all_below(folder / name)


def _refuse_what_is_deeper(folder: Folder, class_names: Sequence[str], files: Sequence[File]) -> None:
    """Raise a DataError where the images of a class lie in folders of its folder, and nobody says what these are."""
    there = {label for label, _, _ in files}
    for label, class_name in enumerate(class_names):
        if label not in there and any(image_files(below) for below in _all_below(folder / class_name)):
            inside = ", ".join((folder / class_name).folders()[:3])
            raise DataError(
                f"{(folder / class_name).uri}: holds no images but folders ({inside}); set data.nested to classes, "
                f"which makes each innermost folder a class, or to images, which takes all as images of {class_name}"
            )


def _open(folder: Folder, file: str) -> Image.Image:
    return open_encoded(folder.read(file))
