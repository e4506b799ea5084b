"""A dataset without its pixels: what its labels tell, which is enough to see whether a run's parts go together.

Letters: N images, K classes, C H W.
"""

import torch

from raydd.core.keyed_random import Key
from raydd.data.config import DataConfig
from raydd.data.images import Resident
from raydd.data.loading import Undecoded, hold_out_files, listed, size_of
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Identity
from raydd.data.streamed_splits import expected


def outline(config: DataConfig, key: Key) -> PreparedData:
    """The splits of a dataset, all of whose images are black; none is read, but for the shape of the first.

    Args:
        config: the dataset.
        key: of the validation split.

    Raises:
        DataError: it is missing, or its labels are not what they say.
    """
    train, test = listed(config)
    kept, held_out = hold_out_files(train, config.validation_fraction, key)
    shape = (size_of(config) or expected(config)).shape

    def black(files: Undecoded) -> LabelledImages:
        pixels = torch.zeros((), dtype=torch.uint8).expand(len(files), *shape)
        return LabelledImages(Resident.of(pixels, Identity()), files.labels)

    return PreparedData(
        train.listing.dataset,
        train.listing.class_names,
        "",
        Identity(),
        train=black(kept),
        test=black(test),
        validation=None if held_out is None else black(held_out),
    )
