"""How many bytes distilled sets take, in memory and as they are stored, from the shapes of what is written.

Letters: M synthetic images, K classes, D values of an image.
"""

from typing import Final

from raydd.data import DataFacts

HEADER_BYTES: Final = 4_500
"""Of one synthetic set: Parquet schema and footer, card and manifest."""
STATISTICS_BYTES: Final = 4_096
"""PNGs below this size are in a Parquet file's statistics as well: the first and the last, twice each."""
FLOAT_BYTES: Final = 3.7
"""Of one float32 of image noise under zstd, which finds something in the exponents only."""
PNG_BYTES: Final = 1.02
"""Of one value of image noise in a PNG; of photographs about 0.75."""
PNG_HEADER_BYTES: Final = 70
SHOWN: Final = 10
"""Images of each class in a set's preview, at most."""
SHOWN_CLASSES: Final = 100
"""Classes there, at most."""


def held_bytes(facts: DataFacts, num_images: int, soft: bool) -> int:
    """M images in memory, float32, and their labels where these are soft."""
    return 4 * num_images * (facts.values + facts.num_classes * soft)


def stored_bytes(
    facts: DataFacts, num_images: int, *, soft: bool, exact: bool, whitening: int, num_classes: int | None = None
) -> int:
    """One synthetic set: float32 tensors, PNGs and label logits in Parquet, whitening, and preview.

    Distilled images are noise to a compressor; what looks more like photographs takes less.

    Args:
        facts: the dataset's size.
        num_images: M.
        soft: whether labels are logits.
        exact: whether the images are whole pixels, of which no tensors are stored.
        whitening: bytes of the maps into network space and back.
        num_classes: of which the preview shows images; K by default.
    """
    classes = facts.num_classes if num_classes is None else num_classes
    png = PNG_BYTES * facts.values + PNG_HEADER_BYTES
    tensor = 0 if exact else FLOAT_BYTES * facts.values
    labels = 4 * facts.num_classes * soft + 2
    preview = 1.2 * png * min(num_images, SHOWN * min(classes, SHOWN_CLASSES))
    images = num_images * (tensor + png + labels)
    return round(images + preview) + whitening + header_bytes(facts)


def header_bytes(facts: DataFacts) -> int:
    """What a synthetic set takes beside images, labels, whitening and preview."""
    png = round(PNG_BYTES * facts.values + PNG_HEADER_BYTES)
    return HEADER_BYTES + 4 * png * (png < STATISTICS_BYTES)
