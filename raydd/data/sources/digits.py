"""Scikit-learn's handwritten digits: 1,797 grey images of 8x8, inside the library, nothing to download."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raydd.data.listing import Item, Listing
from raydd.data.place import Place
from raydd.storage import Folder


def digits(place: Place) -> tuple[Listing, Listing]:
    """The training and the test split; nothing is read from the root.

    Pixel values 0..16 become round(255 v / 16), halves up, in integers. The split is fixed: the 6th, 12th, 18th, ...
    image of every digit, counted in the order of scikit-learn, is a test image, all others train; 1,501 and 296 images.
    """
    from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second

    data = load_digits()
    pixels = ((data.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    labels = torch.from_numpy(data.target.astype(np.int64))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        is_test[(labels == label).nonzero().flatten()[5::6]] = True

    def listing(split: str, rows: Tensor) -> Listing:
        def items(kept: Tensor) -> Iterator[Item]:
            for row in rows[kept].tolist():
                yield Item(f"digits, image {row}", partial(Image.fromarray, pixels[row]))

        def file(row: int) -> tuple[Folder, str]:
            return place.root, f"digits#{int(rows[row])}"

        return Listing("digits", f"digits, {split}", tuple("0123456789"), labels[rows], items, file)

    return listing("train", (~is_test).nonzero().flatten()), listing("test", is_test.nonzero().flatten())
