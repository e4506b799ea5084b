"""MTT: matching training trajectories (Cazenavette, Wang, Torralba, Efros and Zhu, CVPR 2022).

Random real images with their hard labels; segments start anywhere in [min_start_epoch, max_start_epoch).
"""

from dataclasses import dataclass
from typing import Literal

from raydd.methods.base import Method, Start, Task
from raydd.methods.initial import class_labels, random_real
from raydd.methods.matching import MatchingConfig, TrajectoryMatching
from raydd.random import Key


@dataclass(frozen=True, kw_only=True)
class MTTConfig(MatchingConfig):
    """MTT; the defaults are the published script's for 10 images per class of CIFAR-10."""

    name: Literal["mtt"] = "mtt"
    iterations: int = 5_000
    image_lr: float = 1000.0

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at random real images."""
        rows = random_real(task.data, self.images_per_class, key.child("init"))
        return TrajectoryMatching(
            self,
            task,
            start,
            key,
            images_MCHW=task.data.train.images[rows],
            labels_M=class_labels(task.data.num_classes, self.images_per_class),
            soft_labels_MK=None,
            label_lr=0.0,
            label_momentum=0.0,
            window=lambda iteration: (self.min_start_epoch, self.max_start_epoch),
        )
