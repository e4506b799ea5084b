"""The splits of a dataset whose images are streamed from their files: looked at once, listed again by every process.

Letters: N images, C H W.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain

import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import DataError
from raydd.core.keyed_random import Key
from raydd.data.config import DataConfig
from raydd.data.decoding import in_threads, look_at
from raydd.data.facts import DataFacts
from raydd.data.listing import Item
from raydd.data.loading import Undecoded, has_files, hold_out_files, listed, require_every_class, tell_problems
from raydd.data.placement import Residence
from raydd.data.preprocessing import Preprocessing
from raydd.data.problems import ImageProblem
from raydd.data.sources.table import published
from raydd.data.streamed_images import Streamed, read_here
from raydd.storage import Folder

BLOCK = 256
"""Images that are decoded together where all are gone through."""


@dataclass(frozen=True, eq=False)
class FileBlocks:
    """Images that a preprocessing is fitted on, decoded anew each time they are gone through."""

    files: Undecoded
    shape: tuple[int, int, int]
    """C, H, W."""

    def __len__(self) -> int:
        """N."""
        return len(self.files)

    def blocks(self) -> Iterator[Tensor]:
        """All of them in order, uint8 [B, C, H, W]."""
        rows = torch.arange(len(self)).split(BLOCK)
        with closing(read_here(self.files, self.shape[0], rows)) as read:
            yield from read


@dataclass(frozen=True, eq=False)
class StreamedSplits:
    """Which images there are, and what shape all of them are decoded to."""

    train: Undecoded
    test: Undecoded
    validation: Undecoded | None
    shape: tuple[int, int, int]
    """C, H, W."""

    def training_blocks(self) -> FileBlocks:
        """What a preprocessing is fitted on."""
        return FileBlocks(self.train, self.shape)

    def streamed(self, files: Undecoded, preprocessing: Preprocessing) -> Streamed:
        """The images of one of the splits."""
        return Streamed(files, self.shape, preprocessing)

    def fingerprint(self, files: Undecoded) -> str:
        """Sha256 over JSON: [N, C, H, W], class names, labels, and of each image its path below the root and its size.

        The size is that of its file, and -1 where it is in none of its own. No image is read.
        """
        content = [len(files), *self.shape], files.listing.class_names, files.labels.tolist(), _files(files)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def streams(config: DataConfig) -> bool:
    """Whether the images of a dataset are to be streamed; see `Residence`."""
    if config.streaming != "auto" or not has_files(config.source):
        return config.streaming == "on"
    known = published(config.source)
    if known is not None and not Residence.of(config, _sized(known, config)).streamed:
        return False
    return Residence.of(config, expected(config)).streamed


def expected(config: DataConfig) -> DataFacts:
    """The size of a dataset by its labels and, where nobody knows their shape, its first good image, which may be grey.

    Raises:
        DataError: the dataset is not there or not what it says, or none of its images can be decoded.
    """
    train, test = listed(config)
    known = published(config.source)
    if known is not None:
        shape = _sized(known, config).shape
    elif config.size is not None:
        shape = 3, config.size, config.size
    else:
        shape = 3, *train.first_size()
    return DataFacts(len(train), len(test), shape, len(train.listing.class_names))


def look(config: DataConfig, key: Key, report: Folder | None = None) -> StreamedSplits:
    """List the images of `data.load(config, key)`.

    All are decoded once, and forgotten, to see which can be and what shape they have. That is left out where the shape
    is known, nothing is to be fitted on the images, and bad ones are not to be skipped: then they are found in use.

    Args:
        config: the dataset.
        key: of the validation split.
        report: gets a file `problems.csv`, as that of `data.load`.

    Raises:
        DataError: as `data.load`.
    """
    train, test = listed(config)
    shape = _known_shape(config)
    if shape is None:
        train, test, shape = _looked_at(config, train, test, report)
    kept, held_out = hold_out_files(train, config.validation_fraction, key)
    return StreamedSplits(kept, test, held_out, shape)


def list_again(config: DataConfig, rows: Mapping[str, Tensor], shape: tuple[int, int, int]) -> StreamedSplits:
    """What `look` found, from the rows of each split."""
    train, test = listed(config)
    held_out = replace(train, rows=rows["validation"]) if "validation" in rows else None
    return StreamedSplits(replace(train, rows=rows["train"]), replace(test, rows=rows["test"]), held_out, shape)


def _sized(known: DataFacts, config: DataConfig) -> DataFacts:
    channels, height, width = known.shape
    return replace(known, shape=(channels, config.size or height, config.size or width))


def _known_shape(config: DataConfig) -> tuple[int, int, int] | None:
    """C, H, W where nobody has to look at the images, and else None."""
    is_literature = config.preprocess == "standardise" and config.statistics == "literature"
    if config.on_error == "skip" or not (is_literature or config.preprocess == "none"):
        return None
    if (known := published(config.source)) is not None:
        return _sized(known, config).shape
    return (3, config.size, config.size) if is_literature and config.size is not None else None


def _looked_at(
    config: DataConfig, train: Undecoded, test: Undecoded, report: Folder | None
) -> tuple[Undecoded, Undecoded, tuple[int, int, int]]:
    """Those that can be decoded, and C, H, W of all."""
    is_kept: list[bool] = []
    problems: list[ImageProblem] = []
    first: tuple[Item, tuple[int, int]] | None = None
    channels = 1
    items = chain(*(images.listing.items(images.rows) for images in (train, test)))
    for number, (item, seen) in enumerate(in_threads(partial(look_at, partial(_shape, config.size)), items)):
        is_kept.append(seen.value is not None)
        if seen.problem:
            split = "train" if number < len(train) else "test"
            problems.append(ImageProblem(split, item.where, seen.problem, seen.value is not None))
        if seen.value is not None:
            channels = max(channels, seen.value[0])
            first = first or (item, seen.value[1:])
            _require_same_size(first, item, seen.value[1:])
    tell_problems(problems, config, report)
    kept = [
        images.subset(torch.tensor(mask))
        for images, mask in ((train, is_kept[: len(train)]), (test, is_kept[len(train) :]))
    ]
    for images in kept:
        require_every_class(images.listing, images.rows)
    assert first is not None
    return kept[0], kept[1], (channels, *first[1])


def _shape(size: int | None, image: Image.Image, stored: str) -> tuple[int, int, int]:
    return (1 if image.mode == "L" else 3), size or image.height, size or image.width


def _require_same_size(first: tuple[Item, tuple[int, int]], item: Item, size: tuple[int, int]) -> None:
    if size != first[1]:
        height, width = first[1]
        raise DataError(
            f"{item.where} is {size[1]}x{size[0]}, and {first[0].where} is {width}x{height}: "
            "set data.image_size to bring all images to one size"
        )


def _files(files: Undecoded) -> list[tuple[str, int]]:
    sizes = cache(lambda folder: {info.base_name: int(info.size) for info in folder.listing() if info.is_file})
    found = []
    for path, row in zip(files.paths(), files.rows.tolist(), strict=True):
        folder, file = files.listing.place(row)
        inside = sizes(folder)
        found.append((path, inside.get(file, inside.get(file.rpartition("#")[0], -1))))
    return found
