"""MTT: matching training trajectories (Cazenavette, Wang, Torralba, Efros and Zhu, CVPR 2022).

Random real images with their hard labels; segments start anywhere in [min_start_epoch, max_start_epoch). TESLA (Cui,
Wang, Si and Hsieh, ICML 2023) is the same with `gradient: tesla` and, on ImageNet, `labels: assigned`.
"""

from dataclasses import dataclass
from typing import Literal

from raydd.core.keyed_random import Key
from raydd.methods.base import Method, Start, Task
from raydd.methods.initial import class_labels, random_real
from raydd.methods.trajectory.image_labels import ImageLabels
from raydd.methods.trajectory.matcher import TrajectoryMatching
from raydd.methods.trajectory.matching import MatchingConfig


def at_random_images(
    config: MatchingConfig,
    task: Task,
    start: Start,
    key: Key,
    *,
    assigns_labels: bool = False,
    ema_decay: float | None = None,
) -> TrajectoryMatching:
    """A distiller at random real images and their classes, with a window that stays as it is.

    The arguments are those of `TrajectoryMatching`; `assigns_labels` is whether labels are `assigned`.
    """
    rows = random_real(task.data, config.images_per_class, key.child("init"), config.repeat_images)
    return TrajectoryMatching(
        config,
        task,
        start,
        key,
        images_MCHW=task.data.train.images[rows],
        labels=ImageLabels(
            classes_M=class_labels(task.data.num_classes, config.images_per_class), assigned=assigns_labels
        ),
        window=lambda iteration: (config.min_start_epoch, config.max_start_epoch),
        ema_decay=ema_decay,
    )


@dataclass(frozen=True, kw_only=True)
class MTTConfig(MatchingConfig):
    """MTT; the defaults are the published script's for 10 images per class of CIFAR-10."""

    name: Literal["mtt"] = "mtt"
    iterations: int = 5_000
    image_lr: float = 1000.0
    labels: Literal["hard", "assigned"] = "hard"
    """hard: each image keeps its class. assigned [teacher_label]: in every iteration the labels are what the end of the
    expert's segment says of the images as they are; the set keeps those of the last iteration that was not skipped."""

    @property
    def has_soft_labels(self) -> bool:
        """Whether labels are assigned."""
        return self.labels == "assigned"

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at random real images."""
        return at_random_images(self, task, start, key, assigns_labels=self.labels == "assigned")
