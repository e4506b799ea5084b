"""A method of another package, and the ingredient that it needs: images that move towards the mean of their class.

Letters: K classes, M images, N real ones, C H W.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from raydd.core.interruption import Interruption
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.data.facts import DataFacts
from raydd.ingredients.base import SIGNALS, Ingredient, Kitchen, Spread
from raydd.ingredients.cost import IngredientCost
from raydd.methods.base import MethodState, Start, Task
from raydd.methods.cost import CostSetting, DistillCost, Portion
from raydd.methods.defaults import KeepsClasses
from raydd.methods.initial import class_labels, random_real
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Artefact, content_key, new_artefact, self_checked
from raydd.training.cost import WorkSample
from raydd.training.stand_in import random_images

FILE = "means.safetensors"
HEADER_BYTES = 700
"""Of the means: their file's header, and the manifest."""


@dataclass(frozen=True)
class ClassMeans(Ingredient[Tensor]):
    """The mean image of every class, float32 [K, C, H, W] in network space: a class is a piece."""

    pause: float = 0.0
    """Seconds that a class takes besides, for those who want to disturb it."""

    kind = "class_means"
    title = "class means"

    @property
    def spread(self) -> Spread:
        """A class is an actor's work."""
        return "actors"

    @cached_property
    def _key(self) -> str:
        data = self.kitchen.data
        return content_key({"data": data.fingerprint, "preprocessing": data.preprocessing.describe()})

    def key(self) -> str:
        """Of the images in network space."""
        return self._key

    def pieces(self) -> Sequence[int]:
        """Classes without a mean."""
        return [label for label in range(self.kitchen.data.num_classes) if not self._work.has(self._file(label))]

    @property
    def counted(self) -> int:
        """All classes."""
        return self.kitchen.data.num_classes

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """The mean of a class."""
        train = self.kitchen.data.train
        time.sleep(self.pause)
        mean = train.images[(train.labels == piece).nonzero().squeeze(1)].double().mean(0).float()
        self_checked.write(self._work, self._file(piece), {"mean": mean})

    def finish(self) -> None:
        """Put them together."""
        files = map(self._file, range(self.kitchen.data.num_classes))
        means = [self_checked.read(self._work, file)[0]["mean"] for file in files]
        with new_artefact(self.folder, self.kind, self.key()) as writer:
            writer.write(FILE, save({"means": torch.stack(means)}))

    def open(self) -> Tensor:
        """The means."""
        return load(Artefact.require(self.folder, self.kind).read(FILE))["means"]

    @staticmethod
    def cost(facts: DataFacts, data_bytes: int) -> IngredientCost:
        """A value of an image is added once, and a class's images are there as doubles."""
        stored = 4 * facts.num_classes * facts.values + HEADER_BYTES

        def make(rows: int, device: torch.device) -> Callable[[], object]:
            images = random_images(facts, rows, device)
            return lambda: images.double().mean(0).float()

        return IngredientCost(
            makes="mean images of the classes",
            units=facts.num_classes,
            flops=facts.num_train * facts.values,
            pieces=facts.num_classes,
            disk_bytes=stored,
            working_disk_bytes=stored,
            memory_bytes=data_bytes + 8 * facts.num_train * facts.values // facts.num_classes,
            sample=WorkSample(make=make, most=facts.num_train, flops=lambda rows: rows * facts.values),
        )

    @property
    def _work(self) -> Any:
        return self.kitchen.work / self.kind / self.key()

    @staticmethod
    def _file(label: int) -> str:
        return f"class-{label:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class ClassMeansConfig(KeepsClasses):
    """Real images, moved towards the mean of their class."""

    name: Literal["class_means"] = "class_means"
    images_per_class: int = 1
    iterations: int = 10
    """Steps."""
    image_lr: float = 0.1
    """The part of the way that a step goes."""
    pause: float = 0.0
    """Seconds that the mean of a class takes besides."""

    @property
    def made_first(self) -> tuple[str, ...]:
        """The means."""
        return ("class_means",)

    def ingredients(self, kitchen: Kitchen) -> tuple[Ingredient[Any], ...]:
        """The means."""
        return (ClassMeans(kitchen, self.pause),)

    def cost_first(self, setting: CostSetting) -> Mapping[str, IngredientCost]:
        """The means."""
        return {"class_means": ClassMeans.cost(setting.facts, setting.data_bytes)}

    def cost(self, setting: CostSetting) -> DistillCost:
        """Every value goes three operations of the way in an iteration."""
        values = self.images_per_class * setting.facts.num_classes * setting.facts.values
        return DistillCost(
            makes="steps to the means",
            units=self.iterations,
            portions=(Portion(flops=3 * values * self.iterations, divided="alone"),),
            memory_bytes=setting.data_bytes + 4 * 4 * values,
        )

    def num_groups(self, num_classes: int) -> int:
        """One batch."""
        return 1

    def build(self, task: Task, start: Start, key: Key) -> "Moving":
        """Random real images, before the first step."""
        return Moving(self, task, start, key)


class Moving:
    """The images on their way."""

    units = 1

    def __init__(self, config: ClassMeansConfig, task: Task, start: Start, key: Key) -> None:
        data = task.data
        rows = random_real(data, config.images_per_class, key.child("init"), config.repeat_images)
        self.iteration = 0
        self.images = data.train.images[rows].clone()
        self.labels = class_labels(data.num_classes, config.images_per_class)
        self._config, self._data, self._stage = config, data, start.stage
        self._means: Tensor = task.given["class_means"]

    def step(self) -> dict[str, float]:
        """Go a part of the way."""
        way = self._means[self.labels] - self.images
        self.images = self.images + self._config.image_lr * way
        self.iteration += 1
        return {"loss": float(way.square().mean())}

    def result(self) -> SyntheticSet:
        """Where they are."""
        return SyntheticSet(
            images=self.images.clone(),
            labels=self.labels,
            stage=torch.full_like(self.labels, self._stage, dtype=torch.int32),
            learned_lr=(None,),
            class_names=self._data.class_names,
            preprocessing=self._data.preprocessing,
        )

    def averaged(self) -> None:
        """No average is kept."""

    def revised(self) -> None:
        """Earlier images are constants."""

    def state_dict(self) -> MethodState:
        """Images and iteration."""
        return {"images": self.images.clone(), "iteration": self.iteration}

    def load_state_dict(self, state: MethodState) -> None:
        """Go on."""
        self.images, self.iteration = state["images"].clone(), int(state["iteration"])
