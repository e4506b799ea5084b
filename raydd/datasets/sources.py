"""The table of sources, and the way from a config to the splits of a dataset."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from raydd.datasets.cifar import cifar10, cifar100
from raydd.datasets.digits import digits
from raydd.datasets.imagefolder import imagefolder
from raydd.datasets.images import ImageSet, Splits
from raydd.datasets.listing import Listing, check_same_classes, decode, first_per_class
from raydd.datasets.parquet import parquet
from raydd.datasets.tiny_imagenet import tiny_imagenet
from raydd.errors import ConfigError, DataError
from raydd.random import Key, permutation
from raydd.storage import Folder
from raydd.storage.cache import cache_folder

SOURCES: dict[str, Callable[[Folder], tuple[Listing, Listing]]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny-imagenet": tiny_imagenet,
    "imagefolder": imagefolder,
    "parquet": parquet,
}
"""What `data.source` may be: from the root folder to the training and the test split."""

_PLACES: dict[str, tuple[str, ...]] = {
    "digits": (),
    "cifar10": ("cifar10", "cifar-10-batches-py"),
    "cifar100": ("cifar100", "cifar-100-python"),
    "tiny-imagenet": ("tiny-imagenet", "tiny-imagenet-200"),
    "imagefolder": ("train", "test", "val"),
}
"""The folders below the root in which a source looks, where it does not look in the whole of it."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and in which space networks see them."""

    source: str = "digits"
    """One of `SOURCES`."""
    root: str | None = None
    """Folder or URI that holds the dataset; by default $RAYDD_DATA, or else the user's cache folder."""
    image_size: int | None = None
    """Height and width in pixels to resize and crop to; needed where images differ in size."""
    preprocess: Literal["none", "standardise", "zca"] = "standardise"
    """Pixels as they are, standardised per channel, or ZCA-whitened."""
    statistics: Literal["computed", "literature"] = "computed"
    """Standardise by the training images' mean and deviation, or by the constants that the papers use."""
    validation_fraction: float = 0.0
    """Share of every class's training images kept aside for selecting; 0 selects nothing."""
    train_limit_per_class: int | None = None
    """Keep only the first this many training images of every class, in source order."""

    def __post_init__(self) -> None:
        """Refuse values that no dataset fits, with a ConfigError."""
        if self.source not in SOURCES:
            raise ConfigError("data.source", f"{self.source!r} is not one of {', '.join(SOURCES)}")
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                "data.validation_fraction", f"must be at least 0 and below 1, is {self.validation_fraction}"
            )
        for field in ("image_size", "train_limit_per_class"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise ConfigError(f"data.{field}", f"must be at least 1, is {value}")


def load(config: DataConfig, key: Key) -> Splits:
    """Read, check and decode a dataset.

    Labels are read first and only the images that are kept are decoded. `key` draws the validation images, out of
    those that `train_limit_per_class` leaves.

    Raises:
        DataError: the dataset is missing or is not what it says; names the file, the class or the field to set.
    """
    train, test = SOURCES[config.source](Folder.at(config.root or default_root()))
    train.check()
    check_same_classes(train, test)
    test.check()
    train_rows, test_rows = first_per_class(train.labels, config.train_limit_per_class), torch.arange(len(test.labels))
    images = decode(chain(train.items(train_rows), test.items(test_rows)), config.image_size)
    train_images, test_images = images[: len(train_rows)], images[len(train_rows) :]
    whole = ImageSet(train_images, train.labels[train_rows], train.class_names, train.dataset)
    kept, held_out = hold_out(whole, config.validation_fraction, key)
    return Splits(kept, ImageSet(test_images, test.labels, test.class_names, test.dataset), held_out)


def signature(config: DataConfig) -> str:
    """Tells one state of a dataset's files from another by names, sizes and times, without reading them.

    Sha256 over the files below the folders where the source looks; over the version of scikit-learn for `digits`.
    """
    root = Folder.at(config.root or default_root())
    places = [root / name for name in _PLACES[config.source]] if config.source in _PLACES else [root]
    found = sorted(line for place in places for line in _walk(place))
    return hashlib.sha256("\n".join([version("scikit-learn"), *found]).encode()).hexdigest()


def _walk(folder: Folder) -> Iterator[str]:
    for info in folder.listing():
        if info.is_file:
            yield f"{folder.uri} {info.base_name} {info.size} {info.mtime_ns}"
    for name in folder.folders():
        yield from _walk(folder / name)


def hold_out(train: ImageSet, fraction: float, key: Key) -> tuple[ImageSet, ImageSet | None]:
    """Split off a stratified share of every class: the images that stay, and the validation images (None for 0).

    Of a class with n images, `fraction * n` are drawn, rounded halves up, but at least 1 and at most n - 1; class k's
    draw is a permutation under `key.child("validation", k)`. Both parts stay in source order.

    Raises:
        DataError: a class has a single image.
    """
    if fraction == 0:
        return train, None
    is_held_out = torch.zeros(len(train), dtype=torch.bool)
    for label, (class_name, count) in enumerate(zip(train.class_names, train.counts(), strict=True)):
        if count < 2:
            raise DataError(
                f"class {class_name} has a single training image, which cannot be on both sides: "
                "set data.validation_fraction to 0 or add images"
            )
        size = min(max(int(fraction * count + 0.5), 1), count - 1)
        drawn = permutation(key.child("validation", label), count)[:size]
        is_held_out[(train.labels == label).nonzero().flatten()[drawn]] = True
    return train.subset(_rows(~is_held_out)), train.subset(_rows(is_held_out))


def default_root() -> str:
    """$RAYDD_DATA, or else `data` in raydd's cache folder."""
    return os.environ.get("RAYDD_DATA") or str(cache_folder().with_name("data"))


def _rows(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()
