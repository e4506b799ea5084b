"""A split before decoding: a source says which images there are and how to open each.

Labels are checked here, before any pixel is read.

Letters: N images, K classes.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from unicodedata import category
from urllib.parse import unquote, urlsplit

import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import ConfigError, DataError
from raydd.data.division import Division
from raydd.data.image_files import formats
from raydd.storage import Folder
from raydd.storage.pointers import FETCH, is_pointer

_UNPRINTED = ("Cc", "Zl", "Zp")
"""Categories of Unicode: control characters, and what breaks lines."""
_NAMED = 10  # bad files that a message names


@dataclass(frozen=True)
class Item:
    """One image that is not read yet."""

    where: str
    """What a message calls it: a file, or a row of one."""
    open: Callable[[], Image.Image]
    """Reads it; may raise anything."""


@dataclass(frozen=True)
class Listing:
    """One split of a source before decoding: every label is known, no pixel is read."""

    dataset: str
    """The dataset's name."""
    where: str
    """What a message calls the split."""
    class_names: tuple[str, ...]
    """K names in the order of the labels."""
    labels: Tensor
    """int64 [N], in source order."""
    items: Callable[[Tensor], Iterable[Item]]
    """The images of some rows (int64, ascending), read as the iteration goes."""
    place: Callable[[int], tuple[Folder, str]]
    """The folder and the file that hold a row's image; of a file that holds many, with "#" and the number in it."""
    division: Division | None = None
    """Of a test split whose source has splits of any names; None where it is as the dataset was published."""

    def check(self) -> None:
        """Raise a DataError unless the labels are 0..K-1 and every class has an image."""
        self.check_labels()
        counts = self.labels.bincount(minlength=len(self.class_names)).tolist()
        empty = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        if empty:
            raise DataError(
                f"{self.where}: no image of class {some(empty)}; every class needs at least one, "
                f"and labels run from 0 to {len(counts) - 1} without a gap; data.classes names those to read"
            )

    def check_labels(self) -> None:
        """Raise a DataError unless there are labels, all of 0..K-1, and the classes' names can be told apart."""
        if len(self.labels) == 0:
            raise DataError(f"{self.where}: there are no images")
        low, high, num_classes = int(self.labels.min()), int(self.labels.max()), len(self.class_names)
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{self.where}: labels run from {low} to {high}, but must be 0 to {num_classes - 1} "
                f"for its {num_classes} classes"
            )
        if odd := [name for name in self.class_names if any(category(letter) in _UNPRINTED for letter in name)]:
            raise DataError(
                f"{self.where}: the class name {odd[0]!r} has a line break or another character that is not printed; "
                "rename the class"
            )
        alike = Counter(name.strip() for name in self.class_names)
        if twice := [name for name, count in alike.items() if count > 1]:
            raise DataError(
                f"{self.where}: classes are called {twice[0]!r} with and without spaces at the end; give each one name"
            )


def check_same_classes(train: Listing, test: Listing) -> None:
    """Raise a DataError unless both splits have the same class names in the same order."""
    if train.class_names != test.class_names:
        only_train = [name for name in train.class_names if name not in test.class_names]
        only_test = [name for name in test.class_names if name not in train.class_names]
        raise DataError(
            f"{test.where}: its classes are not those of {train.where} "
            f"(only in train: {some(only_train)}; only in test: {some(only_test)})"
        )


def of_classes(listing: Listing, classes: Sequence[int | str]) -> Listing:
    """The images of some classes, by number or by name, which are numbered from 0 in the order that they had.

    Raises:
        ConfigError: there is no such class, or it is named twice.
    """
    kept = sorted(_number_of(name, listing) for name in classes)
    if twice := [number for number in kept if kept.count(number) > 1]:
        raise ConfigError("data.classes", f"names {listing.class_names[twice[0]]} twice")
    wanted = torch.tensor(kept)
    rows = torch.isin(listing.labels, wanted).nonzero().squeeze(1)
    return replace(
        listing,
        class_names=tuple(listing.class_names[number] for number in kept),
        labels=torch.searchsorted(wanted, listing.labels[rows]),
        items=lambda own: listing.items(rows[own]),
        place=lambda row: listing.place(int(rows[row])),
    )


def first_per_class(labels: Tensor, limit: int | None) -> Tensor:
    """Rows of the first `limit` images of every class (all of them for None), ascending, int64."""
    counts = labels.bincount().tolist()
    return torch.cat([rows[:limit] for rows in labels.argsort(stable=True).split(counts)]).sort().values


def folder_name(folder: Folder) -> str:
    """What a dataset that has no name of its own is called: the folder's name, of a whole bucket the bucket's."""
    if folder.is_local:
        return folder.path.name
    parts = urlsplit(folder.uri)
    return unquote(parts.path).rpartition("/")[2] or parts.netloc


def path_below(root: Folder, folder: Folder) -> PurePosixPath:
    """The way from a folder to one below it."""
    start, end = (part.uri if part.is_local else unquote(urlsplit(part.uri).path) for part in (root, folder))
    return PurePosixPath(end).relative_to(start)


def open_encoded(encoded: bytes | None) -> Image.Image:
    """The image in the bytes of an image file; ValueError where there are none."""
    if not encoded:
        raise ValueError("no image, null" if encoded is None else "empty, 0 bytes")
    if is_pointer(encoded):
        raise ValueError(FETCH)
    return Image.open(io.BytesIO(encoded), formats=formats())


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "none"


def _number_of(name: int | str, listing: Listing) -> int:
    """The number of a class; a ConfigError where there is none."""
    names = listing.class_names
    if str(name) in names:
        return names.index(str(name))
    if isinstance(name, int) and 0 <= name < len(names) and not all(known.isdecimal() for known in names):
        return name
    raise ConfigError("data.classes", f"{listing.dataset} has no class {name!r}; it has {len(names)}: {some(names)}")
