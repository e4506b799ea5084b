"""Real images as tensors: one set, and the splits of a dataset.

Letters: N images, K classes, C H W.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from raydd.data.problems import ImageProblem


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory, in the order of their source."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """int64 [N], each in 0..K-1."""
    class_names: tuple[str, ...]
    """K names; label k is the class `class_names[k]`."""
    name: str
    """The dataset, as records and cards call it."""

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def counts(self) -> list[int]:
        """The number of images of each of the K classes."""
        return self.labels.bincount(minlength=self.num_classes).tolist()

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` (int64), in that order, under the same class names."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 over shape, class names, labels and pixels: equal for equal data, whatever its name and source."""
        digest = hashlib.sha256(json.dumps([list(self.images.shape), self.class_names]).encode())
        for tensor in (self.labels.to(torch.int64), self.images):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Splits:
    """The parts of one dataset; all share class names and image shape."""

    train: ImageSet
    """What experts, teachers and distillers see."""
    test: ImageSet
    """What accuracies are reported on."""
    validation: ImageSet | None
    """Taken out of the training images, for selecting; None when nothing is selected."""
    skipped: tuple[int, ...] = ()
    """Rows of the training listing that were to be loaded and cannot be decoded, ascending: what `undecoded` leaves out
    with `data.on_error: skip`."""
    problems: tuple[ImageProblem, ...] = ()
    """The images of all parts that are left out, or are not as they are stored."""
