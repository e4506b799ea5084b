"""Splits that the readers of other libraries hold: every label is known at once, an image is found by its number."""

from collections.abc import Callable, Iterator
from functools import partial

from PIL import Image
from torch import Tensor

from raydd.data.listing import Item, Listing
from raydd.storage import Folder


def indexed(
    dataset: str,
    split: str,
    class_names: tuple[str, ...],
    labels: Tensor,
    opened: Callable[[int], Image.Image],
    folder: Folder,
) -> Listing:
    """One split of such a dataset.

    Args:
        dataset: the dataset's name.
        split: train or test.
        class_names: K names in the order of the labels.
        labels: int64 [N].
        opened: makes an image from its number, 0 to N - 1.
        folder: where the reader found it.
    """

    def items(rows: Tensor) -> Iterator[Item]:
        for row in rows.tolist():
            yield Item(f"{dataset} {split}, image {row}", partial(opened, row))

    def place(row: int) -> tuple[Folder, str]:
        return folder, f"{split}#{row}"

    return Listing(dataset, f"{dataset}, {split}", class_names, labels, items, place)
