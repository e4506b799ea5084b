"""SRe2L: squeeze, recover and relabel (Yin, Xing and Shen, NeurIPS 2023, https://arxiv.org/abs/2306.13092).

A class group is one image each of as many classes as a batch holds, so that the images of a class never meet: a smaller
set is a part of a larger one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from raydd.core.keyed_random import Key
from raydd.methods.base import Start, Task
from raydd.methods.decoupled.family import GroupMethod, RecoverConfig
from raydd.methods.decoupled.recover import Recover
from raydd.methods.decoupled.rows import Rows


@dataclass(frozen=True, kw_only=True)
class SpreadConfig(RecoverConfig):
    """Methods whose class groups are spread over the classes."""

    init: Literal["medium", "easy", "hard", "random", "noise"] = "noise"
    jitter: int | None = None

    def num_groups(self, num_classes: int) -> int:
        """Images per class, times batches that hold one image of every class."""
        return self.images_per_class * self._batches(num_classes)

    def rows(self, group: int, num_classes: int) -> Rows:
        """One image each of consecutive classes, there from the beginning."""
        rank, batch = divmod(group, self._batches(num_classes))
        labels = torch.arange(batch * self.batch_size, min((batch + 1) * self.batch_size, num_classes))
        return Rows(
            groups=torch.full_like(labels, group),
            labels=labels,
            ranks=torch.full_like(labels, rank),
            starts=torch.zeros_like(labels),
        )

    def build(self, task: Task, start: Start, key: Key) -> GroupMethod:
        """A distiller of the task's class groups, at their starting images."""
        return Recover(self, task, start, key)

    def _batches(self, num_classes: int) -> int:
        return -(-num_classes // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class SRe2LConfig(SpreadConfig):
    """SRe2L; the defaults are the published ones for ImageNet-1K."""

    usual: ClassVar[Mapping[str, Any]] = {"protocol": "sre2l"}
    name: Literal["sre2l"] = "sre2l"
    crop: Literal["curriculum", "random", "none"] = "random"
