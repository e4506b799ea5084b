"""Image sources, read into sets that stay in memory.

`load` is the one way in: it looks the source up in the table of `sources.py`, checks what it finds there, decodes the
images it keeps, and returns them as `Splits`.
"""

from raydd.datasets.images import ImageSet, Splits
from raydd.datasets.sources import SOURCES, DataConfig, load, signature

__all__ = ["SOURCES", "DataConfig", "ImageSet", "Splits", "load", "signature"]
