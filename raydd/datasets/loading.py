"""The way from a config to the splits of a dataset."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from itertools import chain

import torch
from torch import Tensor

from raydd.datasets.config import DataConfig
from raydd.datasets.facts import PUBLISHED, DataFacts
from raydd.datasets.images import ImageSet, Splits
from raydd.datasets.listing import Listing, check_same_classes, decode, first_per_class, path_below
from raydd.datasets.table import PLACES, listings
from raydd.errors import DataError
from raydd.random import Key, permutation
from raydd.storage import Folder
from raydd.storage.cache import cache_folder


@dataclass(frozen=True)
class Undecoded:
    """The training images that `load` keeps for training, not decoded yet: labels and files are known."""

    root: Folder
    listing: Listing
    rows: Tensor
    """int64 [N], ascending: where in the listing each of them is."""
    image_size: int | None

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self.listing.labels[self.rows]

    def paths(self) -> list[str]:
        """For each the file below the root that it is in, with "#" and its number there where a file holds many."""
        below = cache(lambda folder: path_below(self.root, folder))
        places = (self.listing.place(row) for row in self.rows.tolist())
        return [str(below(folder) / file) for folder, file in places]

    def decode(self, index: Tensor, channels: int) -> Tensor:
        """Some of them (int64 [B], ascending) as `load` decodes them, uint8 [B, C, H, W].

        Raises:
            DataError: images cannot be decoded, or differ in size although there is no `data.image_size`.
        """
        return decode(self.listing.items(self.rows[index]), self.image_size, channels)


def undecoded(config: DataConfig, key: Key) -> Undecoded:
    """List the images of `load(config, key).train`, in that order, without reading a pixel.

    Raises:
        DataError: as `load`.
    """
    root, train, _ = _listings(config)
    rows = first_per_class(train.labels, config.train_limit_per_class)
    if config.validation_fraction:
        rows = rows[~_held_out(train.labels[rows], train.class_names, config.validation_fraction, key)]
    return Undecoded(root, train, rows, config.image_size)


def paths(config: DataConfig, key: Key) -> list[str]:
    """Where each image of `load(config, key).train` comes from: see `Undecoded.paths`."""
    return undecoded(config, key).paths()


def size_of(config: DataConfig) -> DataFacts | None:
    """The size of a dataset that has a name of its own, without reading a pixel; None for others.

    Counted in its labels where it is there; if not, as published, with classes of equal size.

    Raises:
        DataError: it is there, and damaged.
    """
    known = PUBLISHED.get(config.source)
    if known is None:
        return None
    root = Folder.at(config.root or default_root())
    if any((root / place).exists() for place in PLACES[config.source]):
        _, train, test = _listings(config)
        counts = train.labels.bincount().tolist()
        known = replace(known, num_test=len(test.labels), num_classes=len(counts), published=False)
    else:
        counts = torch.arange(known.num_train).remainder(known.num_classes).bincount().tolist()
    kept = [min(count, config.train_limit_per_class or count) for count in counts]
    held_out = sum(_held_out_size(count, config.validation_fraction) for count in kept)
    channels, height, width = known.shape
    shape = (channels, config.image_size or height, config.image_size or width)
    return replace(known, num_train=sum(kept) - held_out, num_validation=held_out, shape=shape)


def has_files(source: str) -> bool:
    """Whether a source reads its images from files of the user's."""
    return PLACES.get(source) != ()


def load(config: DataConfig, key: Key) -> Splits:
    """Read, check and decode a dataset.

    Labels are read first and only the images that are kept are decoded. `key` draws the validation images, out of
    those that `train_limit_per_class` leaves.

    Raises:
        DataError: the dataset is missing or is not what it says; names the file, the class or the field to set.
    """
    _, train, test = _listings(config)
    train_rows, test_rows = first_per_class(train.labels, config.train_limit_per_class), torch.arange(len(test.labels))
    images = decode(chain(train.items(train_rows), test.items(test_rows)), config.image_size)
    train_images, test_images = images[: len(train_rows)], images[len(train_rows) :]
    whole = ImageSet(train_images, train.labels[train_rows], train.class_names, train.dataset)
    kept, held_out = hold_out(whole, config.validation_fraction, key)
    return Splits(kept, ImageSet(test_images, test.labels, test.class_names, test.dataset), held_out)


def _listings(config: DataConfig) -> tuple[Folder, Listing, Listing]:
    """The root, and both splits with their labels checked."""
    root = Folder.at(config.root or default_root())
    train, test = listings(config.source, root)
    train.check()
    check_same_classes(train, test)
    test.check()
    return root, train, test


def signature(config: DataConfig) -> str:
    """Tells one state of a dataset's files from another by names, sizes and times, without reading them.

    Sha256 over the files below the folders where the source looks; over the version of scikit-learn for `digits`.
    """
    root = Folder.at(config.root or default_root())
    places = [root / name for name in PLACES[config.source]] if config.source in PLACES else [root]
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
    is_held_out = _held_out(train.labels, train.class_names, fraction, key)
    return train.subset(_rows(~is_held_out)), train.subset(_rows(is_held_out))


def _held_out(labels: Tensor, class_names: tuple[str, ...], fraction: float, key: Key) -> Tensor:
    """Which images `hold_out` takes, bool [N]."""
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    counts = labels.bincount(minlength=len(class_names)).tolist()
    for label, (class_name, count) in enumerate(zip(class_names, counts, strict=True)):
        if count < 2:
            raise DataError(
                f"class {class_name} has a single training image, which cannot be on both sides: "
                "set data.validation_fraction to 0 or add images"
            )
        drawn = permutation(key.child("validation", label), count)[: _held_out_size(count, fraction)]
        is_held_out[_rows(labels == label)[drawn]] = True
    return is_held_out


def _held_out_size(count: int, fraction: float) -> int:
    """How many of a class's images are held out; see `hold_out`."""
    return min(max(int(fraction * count + 0.5), 1), count - 1) if fraction else 0


def default_root() -> str:
    """$RAYDD_DATA, or else `data` in raydd's cache folder."""
    return os.environ.get("RAYDD_DATA") or str(cache_folder().with_name("data"))


def _rows(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()
