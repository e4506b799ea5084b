"""What every distillation method takes and gives."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.ingredients.network_pool import NetworkStates
from raydd.ingredients.ranking import Ranking
from raydd.ingredients.teacher import Teacher
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.methods.cost import DistillCost, Setting
from raydd.networks.config import NetworkConfig
from raydd.sets.synthetic import SyntheticSet

WorksOn = Literal["trajectories", "teacher", "data"]
"""What a method needs beside the real images: expert trajectories, a teacher, or nothing that is trained first."""

MethodState = dict[str, Any]
"""A method's whole state: tensors and JSON scalars under flat names."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a method works on."""

    data: PreparedData
    network: NetworkConfig
    trajectories: TrajectoryStore | None = None
    num_experts: int = 0
    """How many of the store's trajectories may be used."""
    last_epoch: int = 0
    """The epoch at which those trajectories end."""
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    rows_at_once: int | None = None
    """Synthetic images of an inner step that are computed together; all by default."""
    compiled: bool = False
    """Whether inner steps are compiled, where the network's equations are written out."""
    kept_steps: int = 0
    """Compiled inner steps that keep what takes convolutions for the way back."""
    teacher: Teacher | None = None
    ranking: Ranking | None = None
    """Of the real training images by the teacher."""
    groups: tuple[int, ...] = ()
    """The class groups that a distiller of independent ones works on, side by side in one forward pass."""

    def require_trajectories(self) -> TrajectoryStore:
        """The trajectory store.

        Raises:
            ConfigError: the task has none.
        """
        if self.trajectories is None:
            raise ConfigError("experts", "trajectory matching needs expert trajectories")
        return self.trajectories

    def require_teacher(self) -> Teacher:
        """The teacher.

        Raises:
            ConfigError: the task has none.
        """
        if self.teacher is None:
            raise ConfigError("teacher", "this method needs a trained teacher")
        return self.teacher

    def require_ranking(self) -> Ranking:
        """The ranking of the real images.

        Raises:
            ConfigError: the task has none.
        """
        if self.ranking is None:
            raise ConfigError("ranking", "this method chooses real images by their rank")
        return self.ranking


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a stage begins: the sets that earlier stages left, which take part, and networks trained on them."""

    stage: int = 0
    """Counted from 0."""
    frozen: SyntheticSet | None = None
    """The images of earlier stages: constants, unless `frozen_lr_scale` says otherwise."""
    frozen_lr_scale: float = 0.0
    """Their step size as a part of the new images'; they are constants at 0."""
    pool: NetworkStates = ()
    """Networks to begin in; freshly initialised ones where there are none."""
    fresh_fraction: float = 0.0
    """The part of the iterations that take a freshly initialised network all the same."""


class Method(Protocol):
    """A running distiller."""

    units: int
    """1 where one synthetic batch is shared by all workers; the number of class groups where those are independent."""
    iteration: int
    """Outer updates done, skipped ones included."""

    def step(self) -> dict[str, float]:
        """Do one outer update and return its metrics."""

    def result(self) -> SyntheticSet:
        """This stage's new images only."""

    def averaged(self) -> SyntheticSet | None:
        """The result with its images averaged over the iterations; None where the method keeps no average."""

    def revised(self) -> SyntheticSet | None:
        """The earlier stages' images as this one left them; None where they are constants."""

    def state_dict(self) -> MethodState:
        """A copy of the whole state: exact continuation from it."""

    def load_state_dict(self, state: MethodState) -> None:
        """Continue from what `state_dict` returned."""


class NamedMethod:
    """That every method has a name, by which config files tell it; each configuration declares its own as a field."""

    name: str


@dataclass(frozen=True, kw_only=True)
class RepeatsImages(NamedMethod):
    """What the configurations of all methods share."""

    repeat_images: bool = False
    """Whether a class with fewer real images than are to be started from, or compared with, has them taken again, from
    the first on; for long tails. An error by default."""

    def epochs_read(self, last_epoch: int) -> set[int]:
        """None: there are no trajectories."""
        return set()

    def cost(self, setting: Setting) -> DistillCost:
        """Nothing is stated: plans say so."""
        return DistillCost(makes=f"images of {self.name}", planned=False)


@dataclass(frozen=True, kw_only=True)
class KeepsClasses(RepeatsImages):
    """What configurations share whose images keep their classes: no soft labels, no average, no trajectories."""

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


class BuildsMethod(Protocol):
    """A method's configuration: what every entry of the registry offers."""

    @property
    def name(self) -> str:
        """By which config files tell it."""

    @property
    def images_per_class(self) -> int:
        """New images per class."""

    @property
    def repeat_images(self) -> bool:
        """Whether real images are taken again where a class has too few."""

    @property
    def iterations(self) -> int:
        """Outer updates in all."""

    @property
    def has_soft_labels(self) -> bool:
        """Whether the set's labels are logits; if not, they are classes."""

    @property
    def made_first(self) -> tuple[str, ...]:
        """The kinds of ingredients that have to be made first from the real data."""

    @property
    def works_on(self) -> WorksOn:
        """What has to be trained first."""

    @property
    def uses_ranking(self) -> bool:
        """Whether real images are ranked by the teacher first."""

    def num_groups(self, num_classes: int) -> int:
        """How many independent class groups `Task.groups` may name; 1 where all workers share one batch."""

    @property
    def has_average(self) -> bool:
        """Whether the method makes an averaged set too."""

    @property
    def has_learned_lr(self) -> bool:
        """Whether the set comes with a step size for its students."""

    @property
    def decoded_images(self) -> int:
        """Images that students see of each synthetic one."""

    def epochs_read(self, last_epoch: int) -> set[int]:
        """The epochs of expert trajectories, which end at `last_epoch`, that the method reads; none without experts."""

    def cost(self, setting: Setting) -> DistillCost:
        """What a stage of it takes, and how its work is divided among workers."""

    def check(self, trajectory_epochs: int) -> None:
        """Compare with the length of the trajectories.

        Raises:
            ConfigError: naming the field that does not fit.
        """

    def expert_labels(self, task: Task, images_MCHW: Tensor, labels_M: Tensor) -> Tensor:
        """Soft labels [M, K] of real images by the task's experts, to compare with the method's own."""

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at its starting state."""
