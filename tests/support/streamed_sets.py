"""A small folder of image files that are streamed or kept, as a test asks."""

from pathlib import Path
from typing import Any

from raydd.core.keyed_random import Key
from raydd.data import DataConfig
from tests.support.image_files import noise, write_folders

KEY = Key.root(7)
SIZE = 8
TRAIN, TEST = 42, 12


def written(root: Path) -> Path:
    """Three classes of 14 training and 4 test images of many sizes, every fourth of them grey; returns the root."""
    for number in range(TRAIN + TEST):
        image = noise(number, SIZE + number % 5, SIZE + number % 3)
        image = image.convert("L") if number % 4 == 1 else image
        split = "train" if number < TRAIN else "test"
        write_folders(root, {f"{split}/class{number % 3}/{number:02}.png": image})
    return root


def config_of(root: Path, streaming: Any = "on", **fields: Any) -> DataConfig:
    """What reads them."""
    return DataConfig(source="imagefolder", root=str(root), image_size=SIZE, streaming=streaming, **fields)
