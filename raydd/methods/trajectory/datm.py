"""DATM: difficulty-aligned trajectory matching (Guo, Wang, Cazenavette, Li, Zhang and You, ICLR 2024).

MTT with learned soft labels, starting from real images that experts understand, and with the range of start epochs as
the dial of difficulty: early segments for small sets, late ones for large, the upper bound rising as the run goes on.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.methods.base import Method, Start, Task
from raydd.methods.initial import (
    class_labels,
    correctly_predicted,
    masked_mean_logits,
    random_real,
    single_expert_logits,
)
from raydd.methods.trajectory.image_labels import ImageLabels
from raydd.methods.trajectory.matcher import TrajectoryMatching
from raydd.methods.trajectory.matching import MatchingConfig


def start_epoch_bound(iteration: int, initial: int, final: int, expansion_iterations: int) -> int:
    """The exclusive upper bound of start epochs, U(it) = min(T0 + floor((T+ - T0) it / E), T+) (DATM section 3.2).

    Args:
        iteration: the outer iteration, from 0.
        initial: T0, the bound at the start.
        final: T+, the bound from iteration E on.
        expansion_iterations: E.
    """
    return min(initial + (final - initial) * iteration // expansion_iterations, final)


@dataclass(frozen=True, kw_only=True)
class DATMConfig(MatchingConfig):
    """DATM; the defaults are the published configuration for 10 images per class of CIFAR-10."""

    name: Literal["datm"] = "datm"
    initial_max_start_epoch: int = 10
    """[current_max_start_epoch] the bound on start epochs at the beginning; max_start_epoch from the start if equal."""
    expansion_iterations: int = 1_000
    """[expansion_end_epoch, which counts iterations] when the bound reaches max_start_epoch."""
    threshold: float | None = 1.0
    image_init: Literal["correctly_predicted", "random"] = "correctly_predicted"
    """[pix_init: samples_predicted_correctly or real] which real images to start from: random ones among those that an
    expert classifies correctly, or among all."""
    labels: Literal["learned", "fixed", "hard"] = "learned"
    """learned: soft labels, learned with the images. fixed: soft labels that stay as they start. hard: classes, for
    matching and for students; label_init, label_lr and label_momentum then play no part."""
    label_init: Literal["mean_correct", "single_expert"] = "mean_correct"
    """Where soft labels start. mean_correct: each image's mean logits over the experts that classify it correctly.
    single_expert: the logits of expert 0, correct or not."""
    label_epoch: int | None = None
    """[Label_Model_Timestamp] the epoch at which experts choose images and label them; the last by default."""
    label_lr: float = 2.0
    """[lr_y] of labels that are learned."""
    label_momentum: float = 0.9
    """[Momentum_y] of labels that are learned."""

    def __post_init__(self) -> None:
        """Refuse bounds that cross, and epochs before the first."""
        super().__post_init__()
        if not self.min_start_epoch < self.initial_max_start_epoch <= self.max_start_epoch:
            raise ConfigError(
                "method.initial_max_start_epoch",
                f"must lie above min_start_epoch ({self.min_start_epoch}) and not above max_start_epoch "
                f"({self.max_start_epoch}), is {self.initial_max_start_epoch}",
            )
        if self.expansion_iterations < 1:
            raise ConfigError("method.expansion_iterations", f"must be at least 1, is {self.expansion_iterations}")
        if self.label_epoch is not None and self.label_epoch < 0:
            raise ConfigError("method.label_epoch", f"must be an epoch, 0 or later, is {self.label_epoch}")

    @property
    def has_soft_labels(self) -> bool:
        """Whether labels are learned or fixed logits."""
        return self.labels != "hard"

    def epochs_read(self, last_epoch: int) -> set[int]:
        """Those of a segment, and the one that labels come from."""
        return super().epochs_read(last_epoch) | ({self.label_epoch} if self.label_epoch is not None else set())

    def moved(self, epochs: int) -> Self:
        """The same with its window of start epochs, and the bound that it begins with, so many epochs later."""
        return replace(
            self,
            min_start_epoch=self.min_start_epoch + epochs,
            initial_max_start_epoch=self.initial_max_start_epoch + epochs,
            max_start_epoch=self.max_start_epoch + epochs,
        )

    def check(self, trajectory_epochs: int) -> None:
        """See that every segment and the labels' epoch lie inside trajectories of that many epochs."""
        super().check(trajectory_epochs)
        if self.label_epoch is not None and self.label_epoch > trajectory_epochs:
            raise ConfigError(
                "method.label_epoch",
                f"{self.label_epoch} lies beyond the {trajectory_epochs} epochs of experts.training.epochs",
            )

    def expert_labels(self, task: Task, images_MCHW: Tensor, labels_M: Tensor) -> Tensor:
        """Soft labels [M, K] of real images, made as those that this method starts from."""
        if self.label_init == "single_expert":
            return single_expert_logits(task, images_MCHW, self.label_epoch)
        return masked_mean_logits(task, images_MCHW, labels_M, self.label_epoch)

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at real images with the experts' logits as labels."""
        if self.image_init == "random":
            rows = random_real(task.data, self.images_per_class, key.child("init"), self.repeat_images)
        else:
            epoch, repeat = self.label_epoch, self.repeat_images
            rows = correctly_predicted(task, self.images_per_class, key.child("init"), epoch, repeat)
        images, classes = task.data.train.images[rows], class_labels(task.data.num_classes, self.images_per_class)
        return TrajectoryMatching(
            self,
            task,
            start,
            key,
            images_MCHW=images,
            labels=ImageLabels(
                classes_M=classes,
                soft_MK=self.expert_labels(task, images, classes) if self.has_soft_labels else None,
                lr=self.label_lr if self.labels == "learned" else None,
                momentum=self.label_momentum,
            ),
            window=lambda iteration: (self.min_start_epoch, self._bound(iteration)),
        )

    def _bound(self, iteration: int) -> int:
        return start_epoch_bound(
            iteration, self.initial_max_start_epoch, self.max_start_epoch, self.expansion_iterations
        )
