"""Image sources, read into sets that stay in memory.

`load` is the one way in: it looks the source up in the table of `table.py`, checks what it finds there, decodes the
images it keeps, and returns them as `Splits`. `undecoded` and `paths` tell which files the training images are in,
`size_of` how many there are.
"""

from raydd.datasets.config import DataConfig
from raydd.datasets.facts import DataFacts
from raydd.datasets.images import ImageSet, Splits
from raydd.datasets.loading import (
    Undecoded,
    has_files,
    load,
    paths,
    signature,
    size_of,
    undecoded,
)
from raydd.datasets.table import SOURCES

__all__ = [
    "SOURCES",
    "DataConfig",
    "DataFacts",
    "ImageSet",
    "Splits",
    "Undecoded",
    "has_files",
    "load",
    "paths",
    "signature",
    "size_of",
    "undecoded",
]
