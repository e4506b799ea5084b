"""Class groups that are whole classes, as many as a batch holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.methods.decoupled.family import RecoverConfig
from raydd.methods.decoupled.rows import Rows


@dataclass(frozen=True, kw_only=True)
class ContiguousConfig(RecoverConfig):
    """Methods whose class groups are consecutive classes, each with all its images."""

    def num_groups(self, num_classes: int) -> int:
        """Classes over classes a group, rounded up."""
        return -(-num_classes // self._classes_per_group)

    def rows(self, group: int, num_classes: int) -> Rows:
        """All images of consecutive classes; the last group may have fewer of them."""
        first = group * self._classes_per_group
        labels = torch.arange(first, min(first + self._classes_per_group, num_classes))
        starts = self._starts()
        return Rows.joined(
            [
                Rows(torch.full_like(starts, group), torch.full_like(starts, label), torch.arange(len(starts)), starts)
                for label in labels.tolist()
            ]
        )

    def _starts(self) -> Tensor:
        """The iteration at which each image of a class joins, int64 [images_per_class]: all from the beginning."""
        return torch.zeros(self.images_per_class, dtype=torch.int64)

    @property
    def _classes_per_group(self) -> int:
        """One where a class alone fills the batch.

        (The published code of DELT then lets a batch hold a part of a class, with a schedule of its own.)
        """
        return max(1, self.batch_size // self.images_per_class)
