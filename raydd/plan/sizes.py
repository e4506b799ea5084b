"""How many bytes a run's files take, from the shapes of what is written.

Letters: N real images, M synthetic images, K classes, C H W, D = C * H * W, P parameters.
"""

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.data.placement import Residence

SAVE_FACTOR = 4
"""State, its copy, and the two serialised forms that safetensors holds at once (measured 4.0)."""
TENSOR_HEADER_BYTES = 85
"""Of one tensor in a safetensors file."""
DATA_HEADER_BYTES = 1_250
"""Of the prepared data: the header of their tensors, card without the names of the classes, and manifest."""
EPOCH_HEADER_BYTES = 432
"""Of one epoch in a trajectory file: two Arrow messages and their place in the footer."""
TRAJECTORY_HEADER_BYTES = 3_000
"""Of one trajectory: its card, in the schema at the head and again at the foot, and the JSON file beside it."""
METRICS_ROW_BYTES = 240
"""Of one outer iteration, in the metrics file and again in the checkpoint."""
RECORD_BYTES = 11_000
"""Of one student's Parquet part."""
SYNTHETIC_HEADER_BYTES = 4_500
"""Of one synthetic set: Parquet schema and footer, card and manifest."""
STATISTICS_BYTES = 4_096
"""PNGs below this size are in a Parquet file's statistics as well: the first and the last, twice each."""
FLOAT_BYTES = 3.7
"""Of one float32 of image noise under zstd, which finds something in the exponents only."""
PNG_BYTES = 1.02
"""Of one value of image noise in a PNG; of photographs about 0.75."""
PNG_HEADER_BYTES = 70
SHOWN = 10
"""Images of each class in a set's preview, at most."""
SHOWN_CLASSES = 100
"""Classes there, at most."""


def data_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The prepared data: labels of all splits, pixels or the rows of images that are streamed, and the whitening."""
    found = Residence.of(config.data, facts)
    images = 8 * facts.num_images if found.streamed else found.pixel_bytes
    return images + 8 * facts.num_images + whitening_bytes(config, facts) + DATA_HEADER_BYTES


def whitening_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The maps of ZCA into network space and back."""
    return 4 * (2 * facts.values**2 + facts.values) if config.data.preprocess == "zca" else 0


def trajectory_bytes(num_parameters: int, num_epochs: int) -> int:
    """One expert's files: P float32 for every epoch that is stored."""
    return num_epochs * (4 * num_parameters + EPOCH_HEADER_BYTES) + TRAJECTORY_HEADER_BYTES


def synthetic_bytes(config: RunConfig, facts: DataFacts, exact: bool = False) -> int:
    """One synthetic set: float32 tensors, PNGs and label logits in Parquet, whitening, and preview.

    Distilled images are noise to a compressor; what looks more like photographs takes less.

    Args:
        config: the run.
        facts: the dataset's size.
        exact: whether the images are whole pixels, of which no tensors are stored.
    """
    return part_bytes(config, facts, num_synthetic(config, facts), facts.num_classes, exact)


def part_bytes(config: RunConfig, facts: DataFacts, num_images: int, num_classes: int, exact: bool) -> int:
    """So many images of so many classes as a synthetic set of their own; see `synthetic_bytes`."""
    png = PNG_BYTES * facts.values + PNG_HEADER_BYTES
    tensor = 0 if exact else FLOAT_BYTES * facts.values
    labels = 4 * facts.num_classes * config.method.has_soft_labels + 2
    preview = 1.2 * png * min(num_images, SHOWN * min(num_classes, SHOWN_CLASSES))
    images = num_images * (tensor + png + labels)
    return round(images + preview) + whitening_bytes(config, facts) + header_bytes(facts)


def header_bytes(facts: DataFacts) -> int:
    """What a synthetic set takes beside images, labels, whitening and preview."""
    png = round(PNG_BYTES * facts.values + PNG_HEADER_BYTES)
    return SYNTHETIC_HEADER_BYTES + 4 * png * (png < STATISTICS_BYTES)


def num_synthetic(config: RunConfig, facts: DataFacts) -> int:
    """M."""
    return config.method.images_per_class * facts.num_classes


def set_bytes(config: RunConfig, facts: DataFacts) -> int:
    """A synthetic set in memory: images and, where they are soft, labels."""
    return 4 * num_synthetic(config, facts) * (facts.values + facts.num_classes * config.method.has_soft_labels)
