"""How large the images of a dataset are, before they are loaded."""

from dataclasses import replace

from raydd.core.keyed_random import Key
from raydd.data.config import DataConfig
from raydd.data.loading import undecoded
from raydd.data.sources.table import published


def shorter_side(config: DataConfig) -> int:
    """Of the images as they are loaded, in pixels: what the config says, as published, or that of the first good image.

    Raises:
        DataError: the dataset is not there, or none of its images can be decoded.
    """
    if config.size is not None:
        return config.size
    if (known := published(config.source)) is not None:
        return min(known.shape[1:])
    images = undecoded(replace(config, validation_fraction=0), Key.root(0))
    return min(images.first_size())
