"""DELT: diversity-driven EarlyLate training (Shen, Sherif, Yin and Shao, CVPR 2025, https://arxiv.org/abs/2411.19946).

Real images of medium difficulty; those nearest to the median join first, others later, so that the last ones stay near
the photographs that they start from. A class group is whole classes, as many as a batch holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.methods.base import Start, Task
from raydd.methods.decoupled import earlylate
from raydd.methods.decoupled.family import Clock, GroupMethod, RecoverConfig
from raydd.methods.decoupled.recover import Recover
from raydd.methods.decoupled.rows import Rows


@dataclass(frozen=True, kw_only=True)
class DELTConfig(RecoverConfig):
    """DELT; the defaults are the published ones, equal for all datasets.

    With round_iterations equal to iterations all images take part all the time: its ablation "our init" alone.
    """

    usual: ClassVar[Mapping[str, Any]] = {"protocol": "delt"}
    name: Literal["delt"] = "delt"
    round_iterations: int = 500
    """[round-iterations] RI, iterations between the start of one part of the images and that of the next. Of the
    M = iterations / round_iterations parts there are only as many as images of a class."""
    lr_clock: Clock = "global"
    """global: images that join later begin at the small step size of that time, as published. per_group: at image_lr,
    which then falls to 0 over the iterations that are left to them."""
    crop_clock: Clock = "global"
    """The same for the curriculum of crops."""

    def __post_init__(self) -> None:
        """Refuse rounds that do not fill the iterations."""
        super().__post_init__()
        self._require_at_least(1, "round_iterations")
        if self.iterations % self.round_iterations:
            problem = f"must divide method.iterations ({self.iterations}), is {self.round_iterations}"
            raise ConfigError("method.round_iterations", problem)

    def num_groups(self, num_classes: int) -> int:
        """Classes over classes a group, rounded up."""
        return -(-num_classes // self._classes_per_group)

    def rows(self, group: int, num_classes: int) -> Rows:
        """All images of consecutive classes; the last group may have fewer of them."""
        first = group * self._classes_per_group
        labels = torch.arange(first, min(first + self._classes_per_group, num_classes))
        starts = earlylate.starts(self.images_per_class, self.iterations, self.round_iterations)
        return Rows.joined(
            [
                Rows(torch.full_like(starts, group), torch.full_like(starts, label), torch.arange(len(starts)), starts)
                for label in labels.tolist()
            ]
        )

    def image_iterations(self, num_classes: int) -> int:
        """S, of all classes."""
        return num_classes * earlylate.image_iterations(self.images_per_class, self.iterations, self.round_iterations)

    def build(self, task: Task, start: Start, key: Key) -> GroupMethod:
        """A distiller of the task's class groups, at their starting images."""
        return Recover(self, task, start, key, lr_clock=self.lr_clock, crop_clock=self.crop_clock)

    @property
    def _classes_per_group(self) -> int:
        """One where a class alone fills the batch.

        (The published code then lets a batch hold a part of a class, with a schedule of its own.)
        """
        return max(1, self.batch_size // self.images_per_class)
