"""Epochs of a distilled set for training loops of one's own, with the very batches that `train` would take.

Letters: B batch, K classes, C H W.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.data.images import as_images
from raydd.evaluation.students.of_set import Lesson, student_key
from raydd.networks.losses import centred
from raydd.training.batches import Batch
from raydd.training.epochs import Epochs


class EpochLoader:
    """One epoch a pass: batches of images, shuffled and augmented, with their labels; every pass draws anew.

    Batches are pairs: images float32 [B, C, H, W] in network space; labels int64 [B], or float32 [B, K] label values
    for `DistilledDataset.loss`, where the set has soft labels or the recipe mixes images.
    """

    def __init__(self, lesson: Lesson, num_classes: int, batch_size: int | None, augment: bool, seed: int) -> None:
        """Draw from a set.

        Args:
            lesson: images, labels and recipe.
            num_classes: K.
            batch_size: the recipe's by default.
            augment: whether images are augmented, seen in views and mixed as the recipe says.
            seed: of order and augmentation; the same as that of `train`.

        Raises:
            ConfigError: the batch size is not positive.
        """
        if batch_size is not None and batch_size < 1:
            raise ConfigError("batch_size", f"must be at least 1, is {batch_size}")
        recipe = replace(lesson.recipe, batch_size=batch_size or lesson.recipe.batch_size)
        views = lesson.training_set.views if augment else None
        if not augment:
            recipe = replace(recipe, augmentation="none", cutmix=0.0, views=None)
        self.epoch = 0
        """The number of the next pass, from 0; set it to go on elsewhere."""
        self._recipe, self._num_classes = recipe, num_classes
        self._num_images = len(lesson.training_set.targets)
        key = student_key(seed).child("training")
        images, targets = as_images(lesson.training_set.images), lesson.training_set.targets
        self._epochs = Epochs(images, targets, recipe, [key], views=views)

    def __len__(self) -> int:
        """Batches of a pass; the last may be smaller."""
        return -(-self._num_images // self._recipe.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The next epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._pass(epoch)

    def __repr__(self) -> str:
        """What it yields."""
        size, way = self._recipe.batch_size, "views" if self._recipe.views else self._recipe.augmentation
        return (
            f"EpochLoader({self._num_images} images in batches of {size}, augmentation {way}, next epoch {self.epoch})"
        )

    def _pass(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        with closing(self._epochs.batches(epoch)) as batches:
            for batch in batches:
                yield batch.images, self._labels(batch)

    def _labels(self, batch: Batch) -> Tensor:
        """One label of each image: of mixed ones the logits of the mixture, which the loss takes as it is."""
        if not batch.mixed:
            return batch.targets
        others, kept = batch.mixed
        mixture = kept * self._shares(batch.targets) + (1 - kept) * self._shares(others)
        if self._recipe.loss == "squared":
            return mixture
        return self._recipe.temperature * mixture.clamp(min=torch.finfo(mixture.dtype).tiny).log()

    def _shares(self, targets: Tensor) -> Tensor:
        """Float32 [B, K], each row of sum 1; what outputs should be under the squared loss."""
        if self._recipe.loss == "squared":
            return targets if targets.is_floating_point() else centred(targets, self._num_classes)
        if targets.is_floating_point():
            return (targets / self._recipe.temperature).softmax(1)
        return F.one_hot(targets, self._num_classes).float()
