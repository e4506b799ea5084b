"""Datasets that torchvision downloads, checks and reads, or that lie in Parquet files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from raydd.core.errors import DataError
from raydd.data.indexed import indexed
from raydd.data.listing import Listing
from raydd.data.place import Place
from raydd.data.sources.parquet import parquet
from raydd.storage import Folder


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet:
    """What is to be known of a dataset of torchvision's."""

    name: str
    """What `data.source` calls it, and the folder of its Parquet files."""
    title: str
    """What a message calls it."""
    reader: str
    """The class in `torchvision.datasets`."""
    splits: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"train": True}, {"train": False})
    """What makes the class read the training images, and the test images."""
    labels: str = "targets"
    """Where the class keeps the labels."""
    folder: str = "."
    """The folder that the class is given, below `data.root`."""
    layout: str
    """The folder in which it leaves its files, below `data.root`."""
    sign: str = "."
    """What lies in there when nothing is to be downloaded; by default the folder itself does."""
    class_names: tuple[str, ...]
    """K names in the order of the labels, where Parquet files do not give others."""
    label_columns: tuple[str, ...] = ("label",)
    """Columns that may hold the labels in Parquet files, the best first."""


def torchvision_set(known: TorchvisionSet, place: Place) -> tuple[Listing, Listing]:
    """The training and the test split, in file order.

    From the first of: `root/<name>/{train,test}*.parquet` in the Hugging Face image layout; the files as torchvision
    leaves them, with its checks; torchvision's own download to the same place, from archives that lie there already
    where their checksums match.

    Raises:
        DataError: it is nowhere, or damaged; says where it was looked for.
    """
    folder = place.root / known.name
    if any(file.endswith(".parquet") for file in folder.files()):
        return parquet(replace(place, root=folder), known.class_names, known.label_columns, is_published=True)
    return _read(known, place)


def _read(known: TorchvisionSet, place: Place) -> tuple[Listing, Listing]:
    from torchvision import datasets  # here, because importing torchvision takes a second

    root, layout = place.root, place.root / known.layout
    places = (
        f"{known.title} was looked for in {(root / known.name).uri} "
        f"(train.parquet, test.parquet, columns image and {place.label_columns(known.label_columns)[0]}) "
        f"and in {layout.uri} (torchvision's layout)"
    )
    remedy = "Put the files into one of these folders, or set data.root (or RAYDD_DATA) to the folder above them."
    if not root.is_local:
        raise DataError(f"{places}. {remedy}")
    present = (layout.path / known.sign).exists()
    reader = getattr(datasets, known.reader)
    try:
        train, test = (reader(root.path / known.folder, download=not present, **split) for split in known.splits)
    except Exception as error:  # on damaged files a reader may raise nearly anything
        failed = "what is there is damaged" if present else "downloading it failed"
        raise DataError(f"{places}, and {failed}: {error}. {remedy}") from error
    return _listing(known, "train", train, layout), _listing(known, "test", test, layout)


def _listing(known: TorchvisionSet, split: str, dataset: Any, folder: Folder) -> Listing:
    def opened(row: int) -> Image.Image:
        image: Image.Image = dataset[row][0]
        return image

    labels = torch.as_tensor(getattr(dataset, known.labels), dtype=torch.int64)
    return indexed(known.name, split, known.class_names, labels, opened, folder)
