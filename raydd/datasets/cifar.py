"""CIFAR-10 (Krizhevsky, 2009), from Parquet files or in torchvision's layout."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raydd.datasets.listing import Item, Listing
from raydd.datasets.parquet import parquet
from raydd.errors import DataError
from raydd.storage import Folder

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: Folder) -> tuple[Listing, Listing]:
    """The training (50,000) and the test split (10,000), in file order.

    From the first of: `root/cifar10/{train,test}*.parquet` in the Hugging Face image layout;
    `root/cifar-10-batches-py` as torchvision leaves it; torchvision's own download into that folder.

    Raises:
        DataError: it is nowhere, or damaged; says where it was looked for.
    """
    folder = root / "cifar10"
    if any(name.endswith(".parquet") for name in folder.files()):
        return parquet(folder, CIFAR10_CLASSES)
    return _from_torchvision(root)


def _from_torchvision(root: Folder) -> tuple[Listing, Listing]:
    from torchvision.datasets import CIFAR10  # here, because importing torchvision takes a second

    places = (
        f"CIFAR-10 was looked for in {(root / 'cifar10').uri} (train.parquet, test.parquet, columns image and label) "
        f"and in {(root / CIFAR10.base_folder).uri} (torchvision's layout)"
    )
    remedy = "Put the files into one of these folders, or set data.root (or RAYDD_DATA) to the folder above them."
    if not root.is_local:
        raise DataError(f"{places}. {remedy}")
    present = (root.path / CIFAR10.base_folder).exists()
    try:
        train = CIFAR10(root.path, train=True, download=not present)
        test = CIFAR10(root.path, train=False)
    except (OSError, RuntimeError) as error:
        failed = "what is there is damaged" if present else "downloading it failed"
        raise DataError(f"{places}, and {failed}: {error}. {remedy}") from error
    return _listing("train", train), _listing("test", test)


def _listing(split: str, dataset: Any) -> Listing:
    def items(rows: Tensor) -> Iterator[Item]:
        for row in rows.tolist():
            yield Item(f"cifar10 {split}, image {row}", partial(Image.fromarray, dataset.data[row]))

    return Listing("cifar10", f"cifar10, {split}", CIFAR10_CLASSES, torch.tensor(dataset.targets), items)
