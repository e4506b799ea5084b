"""What a dataset is like: images of which classes and sizes, which are there twice, which damaged, some to look at.

Letters: N images, K classes.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from raydd.core.progress import Progress, Work
from raydd.data.config import DataConfig
from raydd.data.decoding import Seen, fitted, in_threads, look_at
from raydd.data.listing import Item
from raydd.data.loading import Undecoded, listed
from raydd.data.problems import ImageProblem

_SHOWN_OF_A_CLASS: Final = 10
_SHOWN_CLASSES: Final = 100
_MOST_PIXELS: Final = 64  # of a shown image's longer side
_STEP: Final = 64  # images between two news of the progress

Copies = tuple[tuple[str, int, str], ...]
"""Images with the same pixels: of each its split, its label, and its file below the root."""
_Number = tuple[str, int]
"""An image's split, and its number there."""


@dataclass(frozen=True)
class Inspection:
    """What was found in the images that `load` would decode; validation images are still among the training images."""

    dataset: str
    class_names: tuple[str, ...]
    """K names."""
    counts: Mapping[str, list[int]]
    """Of each split the images of each of the K classes that can be decoded."""
    by_class: tuple[Counter[str], ...]
    """Of each of the K classes, how many images there are of each size and mode, as in "32x32 RGB", width first."""
    duplicates: tuple[Copies, ...]
    """Images that are there more than once, in the order in which they are found first."""
    problems: tuple[ImageProblem, ...]
    tiles: tuple[tuple[int, Image.Image], ...]
    """Some training images of the first classes, and their labels: upright, shrunk where they are large."""

    @property
    def stored(self) -> Counter[str]:
        """How many images there are of each size and mode, of all classes."""
        return sum(self.by_class, Counter())

    def lost(self, split: str) -> int:
        """The number of a split's images that cannot be decoded."""
        return sum(one.split == split and not one.kept for one in self.problems)

    def repeated(self, split: str) -> int:
        """The number of a split's images that are copies of one before them."""
        own = (sum(copy[0] == split for copy in copies) for copies in self.duplicates)
        return sum(count - 1 for count in own if count > 1)

    def leaked(self) -> int:
        """The number of test images that are training images, too."""
        mixed = [copies for copies in self.duplicates if copies[0][0] == "train"]
        return sum(split == "test" for copies in mixed for split, _, _ in copies)

    def contradicting(self) -> list[Copies]:
        """The duplicates that are in several classes."""
        return [copies for copies in self.duplicates if len({label for _, label, _ in copies}) > 1]


@dataclass(frozen=True)
class _Look:
    """What is remembered of one image."""

    digest: bytes
    stored: str
    tile: Image.Image | None


def inspect(config: DataConfig, progress: Progress) -> Inspection:
    """Decode every image once, at the size in which it is stored.

    Args:
        config: the dataset; `on_error` changes nothing, and `image_size` only the images that are shown.
        progress: is told how it goes.

    Raises:
        DataError: the dataset is missing, or its labels are not what they say.
    """
    parts = dict(zip(("train", "test"), listed(config), strict=True))
    listing = parts["train"].listing
    counts = {split: [0] * len(listing.class_names) for split in parts}
    by_class = tuple(Counter[str]() for _ in listing.class_names)
    same: defaultdict[bytes, list[_Number]] = defaultdict(list)
    problems, tiles, done, total = [], [], 0, sum(map(len, parts.values()))
    for split, part in parts.items():
        labels = part.labels.tolist()
        wanted = zip(part.listing.items(part.rows), _shown(part.labels, split), strict=True)
        for number, ((item, _), seen) in enumerate(in_threads(partial(_look, config.image_size), wanted)):
            if seen.problem:
                problems.append(ImageProblem(split, item.where, seen.problem, seen.value is not None))
            if seen.value is not None:
                counts[split][labels[number]] += 1
                by_class[labels[number]][seen.value.stored] += 1
                same[seen.value.digest].append((split, number))
                tiles += [(labels[number], tile) for tile in [seen.value.tile] if tile is not None]
            done += 1
            if done % _STEP == 0 or done == total:
                progress.update(Work("inspect"), done, total, f"{len(problems)} problems")
    duplicates = _named([group for group in same.values() if len(group) > 1], parts)
    return Inspection(listing.dataset, listing.class_names, counts, by_class, duplicates, tuple(problems), tuple(tiles))


def _shown(labels_N: Tensor, split: str) -> list[bool]:
    """Which training images to show: some at equal steps of each of the first classes."""
    is_shown = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in range(_SHOWN_CLASSES if split == "train" else 0):
        rows = (labels_N == label).nonzero().flatten()
        step = max(1, len(rows) // _SHOWN_OF_A_CLASS)
        is_shown[rows[::step][:_SHOWN_OF_A_CLASS]] = True
    return is_shown.tolist()


def _look(image_size: int | None, wanted: tuple[Item, bool]) -> Seen[_Look]:
    item, is_shown = wanted
    return look_at(partial(_remembered, image_size, is_shown), item)


def _remembered(image_size: int | None, is_shown: bool, image: Image.Image, mode: str) -> _Look:
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).digest()
    return _Look(digest, f"{image.width}x{image.height} {mode}", _tile(image, image_size) if is_shown else None)


def _tile(image: Image.Image, image_size: int | None) -> Image.Image:
    tile = fitted(image, image_size).convert("RGB")
    tile.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    return tile


def _named(groups: Sequence[Sequence[_Number]], parts: Mapping[str, Undecoded]) -> tuple[Copies, ...]:
    """Images by split, class and file, in place of their numbers in their splits."""
    names: dict[_Number, tuple[str, int, str]] = {}
    for split, part in parts.items():
        numbers = [number for group in groups for other, number in group if other == split]
        own = part.subset(torch.tensor(numbers, dtype=torch.int64))
        for number, label, path in zip(numbers, own.labels.tolist(), own.paths(), strict=True):
            names[split, number] = split, label, path
    return tuple(tuple(names[number] for number in group) for group in groups)
