"""FTD: flat trajectory distillation (Du, Jiang, Tan, Zhou and Li, CVPR 2023).

MTT with experts that were trained towards flat minima (the `gsam` fields of `experts.training`), and with a moving
average of the images over the iterations: a second set beside the learned one, with students of its own. (In the
published code the students of the averaged set are those of the learned one, trained further.)
"""

from dataclasses import dataclass
from typing import Literal

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.methods.base import Method, Start, Task
from raydd.methods.trajectory.matching import MatchingConfig
from raydd.methods.trajectory.mtt import at_random_images


@dataclass(frozen=True, kw_only=True)
class FTDConfig(MatchingConfig):
    """FTD; the defaults are the published ones for 10 images per class of CIFAR-10."""

    name: Literal["ftd"] = "ftd"
    iterations: int = 5_000
    synthetic_steps: int = 30
    synthetic_lr_init: float | Literal["auto"] = 0.001
    ema_decay: float = 0.9995
    """[ema_decay] d of the moving average d * average + (1 - d) * images, taken after every update from the starting
    images on."""

    def __post_init__(self) -> None:
        """Refuse a decay that averages nothing."""
        super().__post_init__()
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("method.ema_decay", f"must be at least 0 and below 1, is {self.ema_decay}")

    @property
    def has_average(self) -> bool:
        """Always."""
        return True

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at random real images, which are the average's first value too."""
        return at_random_images(self, task, start, key, ema_decay=self.ema_decay)
