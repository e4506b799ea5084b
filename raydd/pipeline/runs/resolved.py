"""What a config leaves to the data: read here, once, so that the config itself reads none."""

from raydd.config import RunConfig
from raydd.data.image_sizes import shorter_side


def resolved(config: RunConfig) -> RunConfig:
    """The same with the depth of every network that goes by the size of the images.

    Raises:
        DataError: the dataset is not there, or not what it says.
    """
    return config if config.is_sized else config.sized(shorter_side(config.data))
