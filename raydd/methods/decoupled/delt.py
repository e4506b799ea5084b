"""DELT: diversity-driven EarlyLate training (Shen, Sherif, Yin and Shao, CVPR 2025, https://arxiv.org/abs/2411.19946).

Real images of medium difficulty; those nearest to the median join first, others later, so that the last ones stay near
the photographs that they start from. A class group is whole classes, as many as a batch holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.methods.base import Start, Task
from raydd.methods.decoupled import earlylate
from raydd.methods.decoupled.contiguous import ContiguousConfig
from raydd.methods.decoupled.family import Clock, GroupMethod
from raydd.methods.decoupled.recover import Recover


@dataclass(frozen=True, kw_only=True)
class DELTConfig(ContiguousConfig):
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

    def image_iterations(self, num_classes: int) -> int:
        """S, of all classes."""
        return num_classes * earlylate.image_iterations(self.images_per_class, self.iterations, self.round_iterations)

    def build(self, task: Task, start: Start, key: Key) -> GroupMethod:
        """A distiller of the task's class groups, at their starting images."""
        return Recover(self, task, start, key, lr_clock=self.lr_clock, crop_clock=self.crop_clock)

    def _starts(self) -> Tensor:
        """In parts, round_iterations apart."""
        return earlylate.starts(self.images_per_class, self.iterations, self.round_iterations)
