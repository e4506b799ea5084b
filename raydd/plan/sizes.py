"""How many bytes a run's sets and files take.

Letters: M synthetic images, P parameters.
"""

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.data.size import whitening_bytes
from raydd.evaluation.records import CONFUSION_CLASSES
from raydd.sets.size import held_bytes, stored_bytes

EPOCH_HEADER_BYTES = 432
"""Of one epoch in a trajectory file: two Arrow messages and their place in the footer."""
TRAJECTORY_HEADER_BYTES = 3_000
"""Of one trajectory: its card, in the schema at the head and again at the foot, and the JSON file beside it."""
RECORD_BYTES = 11_000
"""Of one student's Parquet part, without its confusion."""
CONFUSION_BYTES = 100
"""Of a student's confusion, for each class; 60 of ten classes, 115 of a hundred."""


def record_bytes(num_classes: int) -> int:
    """One student's record: its Parquet part."""
    return RECORD_BYTES + CONFUSION_BYTES * num_classes * (num_classes <= CONFUSION_CLASSES)


def trajectory_bytes(num_parameters: int, num_epochs: int) -> int:
    """One expert's files: P float32 for every epoch that is stored."""
    return num_epochs * (4 * num_parameters + EPOCH_HEADER_BYTES) + TRAJECTORY_HEADER_BYTES


def result_bytes(config: RunConfig, facts: DataFacts, num_images: int, exact: bool) -> int:
    """A distilled set of so many images, and its average where the method keeps one.

    Args:
        config: the run.
        facts: the dataset's size.
        num_images: M.
        exact: whether the images are whole pixels.
    """
    whitening, soft = whitening_bytes(config.data, facts), config.method.has_soft_labels
    one = stored_bytes(facts, num_images, soft=soft, exact=exact, whitening=whitening)
    return (1 + config.method.has_average) * one


def num_synthetic(config: RunConfig, facts: DataFacts) -> int:
    """M: the images of all stages together as they are stored."""
    return config.images_per_class * facts.num_classes


def set_bytes(config: RunConfig, facts: DataFacts) -> int:
    """Those in memory: images and, where they are soft, labels."""
    return held_bytes(facts, num_synthetic(config, facts), config.method.has_soft_labels)
