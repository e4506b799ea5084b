"""Which synthetic image is which, where class groups are optimised side by side.

Letters: M synthetic images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The images of some class groups in the order in which they join; all int64 [M]."""

    groups: Tensor
    """The number of the class group."""
    labels: Tensor
    ranks: Tensor
    """Which image of its class it is, from 0."""
    starts: Tensor
    """The iteration at which it joins; ascending."""

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """The images of several class groups, those of one start in the order of the groups."""
        columns = zip(*((part.groups, part.labels, part.ranks, part.starts) for part in parts), strict=True)
        groups, labels, ranks, starts = (torch.cat(column) for column in columns)
        order = starts.argsort(stable=True)
        return cls(groups[order], labels[order], ranks[order], starts[order])

    def __len__(self) -> int:
        """The number of images, M."""
        return len(self.labels)

    def class_major(self) -> Tensor:
        """The rows by class, those of a class by rank: int64 [M]."""
        by_rank = self.ranks.argsort(stable=True)
        return by_rank[self.labels[by_rank].argsort(stable=True)]
