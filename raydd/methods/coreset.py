"""Real images chosen by what a network sees in them, herding or k-center, in the place of a distilled set.

It is what distilling has to beat (`raydd/ingredients/coreset.py` has the sources), made as a set of its own, so that it
can be used where nothing beats it.

Letters: M chosen images, K classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.ingredients.coreset import KIND, Coreset, Selection
from raydd.methods.base import Method, Start, Task
from raydd.methods.cost import CostSetting, DistillCost
from raydd.methods.defaults import KeepsClasses
from raydd.methods.held import HeldSet
from raydd.methods.initial import class_labels, require_images
from raydd.sets.size import held_bytes, stored_bytes
from raydd.sets.synthetic import SyntheticSet
from raydd.training.cost import SAVE_FACTOR


@dataclass(frozen=True, kw_only=True)
class CoresetConfig(KeepsClasses):
    """Chosen real images; nothing is optimised. `evaluate.selector` is the training by whose features they are."""

    name: Literal["coreset"] = "coreset"
    selection: Coreset = "herding"
    """How they are chosen."""
    images_per_class: int = 10
    """Images of each class."""
    taught: bool = False
    """Whether a teacher is made, too, which labels them for students."""

    def __post_init__(self) -> None:
        """Refuse an empty set."""
        if self.images_per_class < 1:
            raise ConfigError("method.images_per_class", f"must be at least 1, is {self.images_per_class}")

    @property
    def iterations(self) -> int:
        """None: the images are there at once."""
        return 0

    @property
    def made_first(self) -> tuple[str, ...]:
        """The choice, and the teacher where one is asked for."""
        return (*(("teacher",) if self.taught else ()), KIND)

    def num_groups(self, num_classes: int) -> int:
        """Independent parts of the work."""
        return 1

    def cost(self, setting: CostSetting) -> DistillCost:
        """What it takes beside the choice: the set, written as its start and as its result."""
        facts, num_images = setting.facts, self.images_per_class * setting.facts.num_classes
        return DistillCost(
            makes="chosen images",
            disk_bytes=2 * stored_bytes(facts, num_images, soft=False, exact=False, whitening=setting.whitening_bytes),
            memory_bytes=setting.data_bytes + SAVE_FACTOR * held_bytes(facts, num_images, False),
        )

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """The chosen images, as what a distiller has in the end.

        Raises:
            ConfigError: a class has too few images.
        """
        require_images(task.data, self.images_per_class, self.repeat_images)
        chosen: Selection = task.given[KIND]
        train, labels = task.data.train, class_labels(task.data.num_classes, self.images_per_class)
        made = SyntheticSet(
            images=train.images[chosen.rows[self.selection]].clone(),
            labels=labels,
            stage=torch.full_like(labels, start.stage, dtype=torch.int32),
            learned_lr=(None,),
            class_names=task.data.class_names,
            preprocessing=task.data.preprocessing,
        )
        return HeldSet(made, self.name)
