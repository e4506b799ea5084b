"""Scikit-learn's handwritten digits: 1,797 grey images of 8x8, inside the library, nothing to download."""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.listing import Item, Listing
from raydd.data.place import Place
from raydd.storage import Folder


def digits(place: Place) -> tuple[Listing, Listing]:
    """The training and the test split; nothing is read from the root.

    Pixel values 0..16 become round(255 v / 16), halves up, in integers. The split is fixed: the 6th, 12th, 18th, ...
    image of every digit, counted in the order of scikit-learn, is a test image, all others train; 1,501 and 296 images.
    """
    rows_of_file = np.loadtxt(_file(), delimiter=",", dtype=np.int64)
    pixels = ((rows_of_file[:, :-1].reshape(-1, 8, 8) * 255 + 8) // 16).astype(np.uint8)
    labels = torch.from_numpy(rows_of_file[:, -1].copy())
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


def _file() -> Path:
    """A row an image, its digit last: found, not imported, because importing scikit-learn takes a second."""
    library = find_spec("sklearn")
    if library is None or library.origin is None:
        raise DataError("data.source: digits come with scikit-learn; pip install scikit-learn")
    return Path(library.origin).parent / "datasets" / "data" / "digits.csv.gz"
