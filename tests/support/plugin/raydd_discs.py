"""A dataset of another package: grey discs, whose classes are their sizes. Images are computed, nothing is downloaded.

Letters: K classes.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.data.facts import DataFacts
from raydd.data.listing import Item, Listing
from raydd.data.place import Place
from raydd.data.sources.source import Source
from raydd.storage import Folder

SIDE: Final = 12
TRAIN, TEST = 30, 6
"""Images of a class."""


def discs(place: Place) -> tuple[Listing, Listing]:
    """Discs of K sizes, at places and on grounds that their numbers draw: `discs:K`."""
    num_classes = _num_classes(place.name)

    def listing(split: str, first: int, count: int) -> Listing:
        def items(rows: Tensor) -> Iterator[Item]:
            for row in rows.tolist():
                label, number = divmod(row, count)
                yield Item(f"discs, image {number} of size {label}", partial(_disc, label, first + number))

        def file(row: int) -> tuple[Folder, str]:
            return place.root, f"discs-{split}#{row}"

        names = tuple(f"size {label}" for label in range(num_classes))
        labels = torch.arange(num_classes).repeat_interleave(count)
        return Listing("discs", f"discs, {split}", names, labels, items, file)

    return listing("train", 0, TRAIN), listing("test", TRAIN, TEST)


def _num_classes(name: str) -> int:
    if not name.isdecimal() or not 2 <= int(name) <= 5:
        raise ConfigError("data.source", f"discs have 2 to 5 sizes, such as discs:3, not {name!r}")
    return int(name)


def _disc(label: int, number: int) -> Image.Image:
    draws = np.random.default_rng((label, number))
    row, column = draws.uniform(4, SIDE - 5, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    is_inside = (rows - row) ** 2 + (columns - column) ** 2 <= (1 + label) ** 2
    return Image.fromarray(np.where(is_inside, 200, draws.integers(0, 60, (SIDE, SIDE))).astype(np.uint8))


def _facts(name: str) -> DataFacts:
    num_classes = _num_classes(name)
    return DataFacts(TRAIN * num_classes, TEST * num_classes, (1, SIDE, SIDE), num_classes)


DISCS: Final = Source(listings=discs, has_name=True, places=(), facts=_facts, statistics=((0.25,), (0.25,)))
