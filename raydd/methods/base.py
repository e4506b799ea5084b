"""What every distillation method takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import Ingredient, Kitchen
from raydd.ingredients.cost import IngredientCost
from raydd.ingredients.network_pool import NetworkStates
from raydd.ingredients.ranking import Ranking
from raydd.ingredients.teacher import Teacher
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.methods.cost import CostSetting, DistillCost
from raydd.networks.config import NetworkConfig
from raydd.networks.losses import LabelKind
from raydd.sets.synthetic import SyntheticSet

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
    given: Mapping[str, Any] = field(default_factory=dict)
    """What the method's own ingredients are, by kind."""
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
        """Whether the set has soft labels; if not, they are classes."""

    @property
    def label_kind(self) -> LabelKind:
        """What soft labels are: logits, or targets of a squared loss."""

    @property
    def made_first(self) -> tuple[str, ...]:
        """The kinds of ingredients that have to be made first from the real data."""

    def ingredients(self, kitchen: Kitchen) -> tuple[Ingredient[Any], ...]:
        """Those of `made_first` that are the method's own; `Task.given` has what they are."""

    def epochs_read(self, last_epoch: int) -> set[int]:
        """The epochs that are read of trajectories that end after `last_epoch`."""

    @property
    def unrolls(self) -> bool:
        """Whether an outer update goes through many steps of a network, which may be compiled."""

    @property
    def deals_groups(self) -> bool:
        """Whether class groups are independent of each other, and dealt out to workers."""

    @property
    def is_taught(self) -> bool:
        """Whether students on its set may ask a teacher."""

    @property
    def labels_real(self) -> bool:
        """Whether it can give real images the soft labels that its own images have; see `expert_labels`."""

    @property
    def reads_pixels(self) -> bool:
        """Whether it works on pixels, which whitened images have not."""

    @property
    def is_given(self) -> bool:
        """Whether the images of all stages are there from the beginning."""

    @property
    def takes_stages(self) -> bool:
        """Whether its set can be made in several stages."""

    @property
    def stage_conditions(self) -> tuple[str, ...]:
        """What a later stage may be conditioned on by the teacher: `stages.teacher_conditions`."""

    def at_window(self, number: int) -> Self:
        """The method in a later window of the experts' epochs, counted from 0.

        Raises:
            ConfigError: it follows no trajectories.
        """

    def step_images(self, num_classes: int) -> int | None:
        """Synthetic images of an inner step; None for all."""

    def open_source(self, data: PreparedData, stage: int) -> None:
        """See that what is taken from elsewhere, if anything is, goes with the real data.

        Raises:
            UserError: it is not there, or does not.
        """

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

    def cost_first(self, setting: CostSetting) -> Mapping[str, IngredientCost]:
        """What each kind of `ingredients` takes to make; one that is not stated is named in plans, and not counted."""

    def cost(self, setting: CostSetting) -> DistillCost:
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
