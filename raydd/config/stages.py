"""Progressive distillation (PDD): several small sets, each distilled for networks that were trained on those before it.

Source: PDD (Chen, Yang, Wang and Mirzasoleiman, ICLR 2024, https://arxiv.org/abs/2310.06982):

    S_i = argmin_S E_theta D(A(theta, U_{i-1} + S), A(theta, T)),   theta_i = Train(theta_{i-1}, U_i),

with U_i the union of S_1 .. S_i, whose earlier parts are constants. Base methods know nothing of it: a stage differs
from a run of its own in `Start` alone. Stages are counted from 0 here.

Letters: P stages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from raydd.core.errors import ConfigError
from raydd.ingredients.real_filter import FilterConfig
from raydd.methods import MethodConfig
from raydd.training.recipe import Recipe

TeacherCondition = Literal["statistics", "teacher_epoch", "disagreement"]


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The stages of a progressive distillation. One stage, the default, is the method as it is."""

    count: int = 1
    """[num_intervals] P stages, each of method.images_per_class new images a class."""
    overrides: Mapping[int, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """Fields of `method` that differ in a stage, by its number: {2: {images_per_class: 16, max_start_epoch: 10}}."""
    conditioning: Literal["synthetic", "expert_window", "none"] = "synthetic"
    """synthetic: networks begin where training on the earlier stages' images ended (PDD), and trajectories are new ones
    from there. expert_window: they begin on the first stage's trajectories, in a window of start epochs that moves on
    by its own length with every stage. none: subsets that know nothing of each other."""
    pool_size: int = 100
    """Networks that go through all stages, and of which later ones begin; also the trajectories of a later stage."""
    epochs: int = 500
    """Of training on each union of stages: in transitions, and in students' chains of the `reference` budget."""
    transition_epochs: int | None = None
    """Of transitions, where they are to differ from the students' [IDC's fast-forward: 200]."""
    carry_momentum: bool = True
    """Whether the optimiser keeps its momenta from one union to the next, in transitions and chains; the step size
    always starts anew."""
    trajectory_epochs: int | None = None
    """Epochs on real data of the trajectories of later stages; by default as many as the method reads."""
    keep_trajectories: bool = False
    """Whether a finished stage keeps its trajectories; its pool, from which they can be trained again, is kept."""
    fresh_fraction: float = 0.0
    """Of the iterations of later stages, those that take a freshly initialised network in place of one of the pool (for
    methods that draw one each)."""
    image_lr_scale: Literal["constant", "union"] = "constant"
    """union: image_lr times |U_i| / |S_i|, as what an image adds to a class's mean gradient shrinks by that."""
    frozen_lr_scale: float = 0.0
    """Above 0 the images of earlier stages are learned on, at this part of image_lr, and the stage has its own version
    of them; what earlier stages made stays as it is."""
    teacher_conditions: tuple[TeacherCondition, ...] = ()
    """For methods that recover images from a teacher, whose stages are independent otherwise. statistics: the moments
    that batch norms are compared in are those of earlier and new images together. teacher_epoch: the teacher as it was
    after the (i + 1) / P part of its epochs. disagreement: classes and starting images that networks of the pool do not
    know yet come first."""
    filter: FilterConfig | None = None
    """Which real images a stage sees; all by default."""
    store: str | None = None
    """A folder shared by runs, in which stages, pools and trajectories lie under their content keys, so that equal
    first stages are made once; inside the run by default."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        for name in ("count", "pool_size", "epochs", "transition_epochs", "trajectory_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"stages.{name}", f"must be at least 1, is {value}")
        for name in ("fresh_fraction", "frozen_lr_scale"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"stages.{name}", f"must be from 0 to 1, is {getattr(self, name)}")
        for number in self.overrides:
            if not 0 <= number < self.count:
                raise ConfigError(f"stages.overrides.{number}", f"there are only stages 0 to {self.count - 1}")

    def check(self, method: MethodConfig) -> None:
        """See that what later stages are conditioned on is there for the method.

        Raises:
            ConfigError: it is not.
        """
        if self.count > 1 and not method.takes_stages:
            problem = f"{method.name} makes its set in one stage: take 1, and a larger method.images_per_class"
            raise ConfigError("stages.count", problem)
        if self.teacher_conditions and not method.is_taught:
            raise ConfigError("stages.teacher_conditions", "is for methods that recover images from a teacher")
        for condition in self.teacher_conditions:
            if condition not in method.stage_conditions:
                said = "statistics: leave them out" if condition == "statistics" else f"{condition}: leave it out"
                raise ConfigError("stages.teacher_conditions", f"{method.name} compares no {said}")
        if self.filter is not None:
            self.filter.check(self.count)
            if self.filters_by_pool and self.count > 1 and self.conditioning != "synthetic":
                problem = "ensemble_correct asks networks that begin a stage: take stages.conditioning synthetic"
                raise ConfigError("stages.filter.policy", problem)
            if method.is_taught:
                raise ConfigError(
                    "stages.filter", "this method chooses among all real images by their rank: leave it out"
                )
        if method.is_taught:
            if self.frozen_lr_scale:
                problem = "images that were recovered from a teacher are not learned on in later stages: take 0"
                raise ConfigError("stages.frozen_lr_scale", problem)
            if self.count > 1 and self.conditioning == "synthetic" and not self.teacher_conditions:
                problem = "stages of this method are independent without one: name some, or take conditioning: none"
                raise ConfigError("stages.teacher_conditions", problem)

    def begins_from_pool(self, stage: int) -> bool:
        """Whether a stage begins in networks that were trained on the earlier ones."""
        return stage > 0 and self.conditioning == "synthetic"

    def freezes(self, stage: int) -> bool:
        """Whether the earlier stages' images take part in a stage."""
        return stage > 0 and self.conditioning != "none"

    @property
    def filters_by_pool(self) -> bool:
        """Whether the networks that begin a stage choose its real images."""
        return self.filter is not None and self.filter.needs_pool

    def transition(self, recipe: Recipe) -> Recipe:
        """How networks are trained on a union before the next stage: as students are."""
        return replace(recipe, epochs=self.transition_epochs or self.epochs)


def stage_methods(stages: StagesConfig, method: MethodConfig) -> tuple[MethodConfig, ...]:
    """The method as it is in each stage.

    Raises:
        ConfigError: an override does not fit.
    """
    made: list[MethodConfig] = []
    for number in range(stages.count):
        own = _overridden(stages, _windowed(stages, method, number), number)
        if number and stages.image_lr_scale == "union":
            total = own.images_per_class + sum(earlier.images_per_class for earlier in made)
            own = _scaled(own, total / own.images_per_class)
        made.append(own)
    return tuple(made)


def trajectory_epochs(stages: StagesConfig, method: MethodConfig) -> int:
    """Epochs of the trajectories that begin in a pool: those that the method of their stage reads, unless given."""
    return stages.trajectory_epochs or max(method.epochs_read(0))


def matched_epochs(steps: int, steps_per_epoch: Sequence[int]) -> int:
    """Epochs on each of a chain's unions that make as many optimiser steps in all, as nearly as whole epochs can.

    Where no batch is ragged and stages are equal, that is 2 E / (P + 1) of E epochs on everything.

    Args:
        steps: of training on everything at once.
        steps_per_epoch: on each union.
    """
    return max(1, round(steps / sum(steps_per_epoch)))


def _windowed(stages: StagesConfig, method: MethodConfig, number: int) -> MethodConfig:
    if not (number and stages.conditioning == "expert_window"):
        return method
    return method.at_window(number)


def _overridden(stages: StagesConfig, method: MethodConfig, number: int) -> MethodConfig:
    changes = dict(stages.overrides.get(number, {}))
    if "name" in changes:
        raise ConfigError(f"stages.overrides.{number}.name", "all stages have one method")
    for name in changes.keys() - {item.name for item in fields(method)}:
        raise ConfigError(f"stages.overrides.{number}.{name}", f"{method.name} has no such field")
    return _changed(method, changes, f"stages.overrides.{number}")


def _changed(method: MethodConfig, changes: Mapping[str, Any], where: str) -> MethodConfig:
    """The method with some fields as a config file has them; `where` names these in messages."""
    if not changes:
        return method
    adapter: TypeAdapter[MethodConfig] = TypeAdapter(MethodConfig)
    try:
        return adapter.validate_python({**asdict(method), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise ConfigError(f"{where}.{cause.field.removeprefix('method.')}", cause.problem) from None
        raise ConfigError(f"{where}.{first['loc'][-1]}", f"{first['msg']}, got {first.get('input')!r}") from None


def _scaled(method: MethodConfig, factor: float) -> MethodConfig:
    rate = getattr(method, "image_lr", None)
    if rate is None:
        raise ConfigError("stages.image_lr_scale", f"{method.name} has no image_lr")
    return _changed(method, {"image_lr": rate * factor}, "stages.image_lr_scale")
