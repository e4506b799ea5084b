"""DATM: difficulty-aligned trajectory matching (Guo, Wang, Cazenavette, Li, Zhang and You, ICLR 2024).

MTT with learned soft labels, starting from real images that experts understand, and with the range of start epochs as
the dial of difficulty: early segments for small sets, late ones for large, the upper bound rising as the run goes on.
"""

from dataclasses import dataclass
from typing import Literal

from raydd.errors import ConfigError
from raydd.methods.base import Method, Start, Task
from raydd.methods.initial import class_labels, correctly_predicted, masked_mean_logits
from raydd.methods.matching import MatchingConfig, TrajectoryMatching
from raydd.random import Key


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
    label_lr: float = 2.0
    """[lr_y]"""
    label_momentum: float = 0.9
    """[Momentum_y]"""

    def __post_init__(self) -> None:
        """Refuse bounds that cross."""
        super().__post_init__()
        if not self.min_start_epoch < self.initial_max_start_epoch <= self.max_start_epoch:
            raise ConfigError(
                "method.initial_max_start_epoch",
                f"must lie above min_start_epoch ({self.min_start_epoch}) and not above max_start_epoch "
                f"({self.max_start_epoch}), is {self.initial_max_start_epoch}",
            )
        if self.expansion_iterations < 1:
            raise ConfigError("method.expansion_iterations", f"must be at least 1, is {self.expansion_iterations}")

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at correctly predicted real images with the experts' mean logits as labels."""
        rows = correctly_predicted(task, self.images_per_class, key.child("init"))
        images, labels = task.data.train.images[rows], class_labels(task.data.num_classes, self.images_per_class)
        return TrajectoryMatching(
            self,
            task,
            start,
            key,
            images_MCHW=images,
            labels_M=labels,
            soft_labels_MK=masked_mean_logits(task, images, labels),
            label_lr=self.label_lr,
            label_momentum=self.label_momentum,
            window=lambda iteration: (self.min_start_epoch, self._bound(iteration)),
        )

    def _bound(self, iteration: int) -> int:
        return start_epoch_bound(
            iteration, self.initial_max_start_epoch, self.max_start_epoch, self.expansion_iterations
        )
