"""Export as PNG files in one folder per class, as torchvision's `ImageFolder` reads them.

Letters: M images, K classes.
"""

from pathlib import Path

import numpy as np

from raydd.core.errors import DataError
from raydd.exchange.card import write_readme, write_whitening
from raydd.exchange.pictures import class_folders, picture_files, png
from raydd.exchange.source import ExportSource

CLASSES, SOFT_LABELS = "classes.txt", "soft_labels.npy"


def write_imagefolder(source: ExportSource, folder: Path) -> None:
    """Write the files, README included.

    Folders are called by the number of their class with zeros in front, so that `ImageFolder`, which sorts them by
    name, counts the classes as the set does. Soft labels are float32 [M, K] logits in the order of its samples.

    Raises:
        DataError: a class has no image, so that `ImageFolder` would refuse the folder.
    """
    synthetic = source.synthetic
    empty = [name for name, count in zip(synthetic.class_names, source.counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"the set has no image of {empty[0]}, and an ImageFolder needs one of every class; export as pt"
        )
    for name in class_folders(len(source.counts)):
        (folder / name).mkdir()
    for (name, file), pixels in zip(picture_files(source.counts), source.pixels, strict=True):
        (folder / name / file).write_bytes(png(pixels))
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in synthetic.class_names))
    if synthetic.soft_labels is not None:
        np.save(folder / SOFT_LABELS, synthetic.soft_labels.numpy())
    write_whitening(synthetic.preprocessing, folder)
    write_readme(source, "imagefolder", folder)
