"""What the configurations of methods have in common: each says what is different about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import Ingredient, Kitchen
from raydd.ingredients.cost import IngredientCost
from raydd.methods.base import Task
from raydd.methods.cost import CostSetting, DistillCost
from raydd.networks.losses import LabelKind

USUAL_RECIPE: Final[Mapping[str, Any]] = {
    "epochs": 1000,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 256,
    "schedule": "step",
    "augmentation": "dsa",
}
"""Of students of images with classes alone, as the code of DSA and DM trains them."""


class NamedMethod:
    """That every method has a name, by which config files tell it; each configuration declares its own as a field."""

    name: str


@dataclass(frozen=True, kw_only=True)
class MethodDefaults(NamedMethod):
    """What the configurations of all methods share."""

    repeat_images: bool = False
    """Whether a class with fewer real images than are to be started from, or compared with, has them taken again, from
    the first on; for long tails. An error by default."""

    usual: ClassVar[Mapping[str, Any]] = {}
    """What the literature takes of `evaluate` for the method's set, where a file names neither recipe nor protocol; a
    protocol is for sets that a teacher labels."""
    learns_step_size: ClassVar[bool] = False
    """Whether students' step size comes with every set of the method."""

    @property
    def revision(self) -> dict[str, Any]:
        """What of a method's work has changed under the same configuration, for content keys: nothing."""
        return {}

    @property
    def label_kind(self) -> LabelKind:
        """Logits, where its sets have soft labels."""
        return "logits"

    @property
    def made_first(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def ingredients(self, kitchen: Kitchen) -> tuple[Ingredient[Any], ...]:
        """None of its own."""
        return ()

    def epochs_read(self, last_epoch: int) -> set[int]:
        """None: there are no trajectories."""
        return set()

    @property
    def unrolls(self) -> bool:
        """It does not."""
        return False

    @property
    def deals_groups(self) -> bool:
        """It does not: all workers share one batch."""
        return False

    @property
    def is_taught(self) -> bool:
        """Where it distils a teacher, which labels views of its set."""
        return "teacher" in self.made_first

    @property
    def labels_real(self) -> bool:
        """It does not."""
        return False

    @property
    def reads_pixels(self) -> bool:
        """It does not: images are in network space."""
        return False

    @property
    def is_given(self) -> bool:
        """They are not: that is what distilling is for."""
        return False

    @property
    def takes_stages(self) -> bool:
        """It can."""
        return True

    @property
    def stage_conditions(self) -> tuple[str, ...]:
        """None: a later stage begins in networks that were trained on earlier ones."""
        return ()

    def at_window(self, number: int) -> Self:
        """There are none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("stages.conditioning", f"{self.name} follows no trajectories: take synthetic or none")

    def expert_labels(self, task: Task, images_MCHW: Tensor, labels_M: Tensor) -> Tensor:
        """There are no experts.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("evaluate.labels", f"{self.name} has no experts that label real images")

    def step_images(self, num_classes: int) -> int | None:
        """All of them."""
        return None

    def open_source(self, data: PreparedData, stage: int) -> None:
        """Nothing: images come from the real data."""

    def cost_first(self, setting: CostSetting) -> Mapping[str, IngredientCost]:
        """Nothing is stated of its own ingredients."""
        return {}

    def cost(self, setting: CostSetting) -> DistillCost:
        """Nothing is stated: plans say so."""
        return DistillCost(makes=f"images of {self.name}", planned=False)


@dataclass(frozen=True, kw_only=True)
class KeepsClasses(MethodDefaults):
    """What configurations share whose images keep their classes: no soft labels, no average, no trajectories."""

    usual: ClassVar[Mapping[str, Any]] = {"recipe_name": "dsa", "recipe": USUAL_RECIPE}

    @property
    def has_soft_labels(self) -> bool:
        """Never."""
        return False

    @property
    def has_average(self) -> bool:
        """Never."""
        return False

    @property
    def has_learned_lr(self) -> bool:
        """Never."""
        return False

    @property
    def decoded_images(self) -> int:
        """Images that students see of each synthetic one."""
        return 1

    def check(self, trajectory_epochs: int) -> None:
        """Nothing: there are no trajectories."""
