"""How many bytes prepared data take, from the shapes of what is written.

Letters: N real images, C H W, D = C * H * W.
"""

from typing import Final

from raydd.data.config import DataConfig
from raydd.data.facts import DataFacts
from raydd.data.placement import Residence

HEADER_BYTES: Final = 1_250
"""Of the prepared data: the header of their tensors, card without the names of the classes, and manifest."""


def data_bytes(config: DataConfig, facts: DataFacts) -> int:
    """The prepared data: labels of all splits, pixels or the rows of images that are streamed, and the whitening."""
    found = Residence.of(config, facts)
    images = 8 * facts.num_images if found.streamed else found.pixel_bytes
    return images + 8 * facts.num_images + whitening_bytes(config, facts) + HEADER_BYTES


def whitening_bytes(config: DataConfig, facts: DataFacts) -> int:
    """The maps of ZCA into network space and back."""
    return 4 * (2 * facts.values**2 + facts.values) if config.preprocess == "zca" else 0
