"""Image sources, read into sets that stay in memory.

`load` is the one way in: it looks the source up in the table of `sources/table.py`, checks what it finds there, decodes
the images it keeps, and returns them as `Splits`. `undecoded` and `paths` tell which files the training images are in,
`size_of` how many there are.
"""

from raydd.data.config import DataConfig
from raydd.data.facts import DataFacts
from raydd.data.image_set import ImageSet, Splits
from raydd.data.loading import Undecoded, has_files, load, paths, signature, size_of, undecoded
from raydd.data.sources.table import SOURCES

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
