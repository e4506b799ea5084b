"""What a run's config says of students and of what they are compared with."""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from raydd.core.errors import ConfigError
from raydd.evaluation.probes.continual import ContinualConfig
from raydd.evaluation.probes.copies import CopiesConfig
from raydd.evaluation.probes.membership import MembershipConfig
from raydd.evaluation.probes.probe import Asker
from raydd.evaluation.probes.realism import RealismConfig
from raydd.evaluation.probes.robustness import RobustnessConfig
from raydd.evaluation.probes.search import SearchConfig
from raydd.evaluation.record import Budget, LabelRegime, Probe, StageMode
from raydd.evaluation.students import protocols
from raydd.evaluation.students.protocols import Protocol
from raydd.methods import MethodConfig
from raydd.networks.config import NetworkConfig
from raydd.training.dsa import augmentation
from raydd.training.recipe import Recipe

_MOST_STUDENTS: Final = 20_000


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Students and what they are compared with."""

    num_students: int = 5
    """Students of each set, with seeds 0, 1, ..."""
    measure_every: int | None = None
    """Epochs from one measurement of a student to the next: records then have the best test accuracy, and with a
    validation split the epoch that it would have chosen. null measures the last epoch only, which is what counts."""
    random_draws: int = 3
    """Draws of random real images, each with its own students."""
    selector: Recipe = field(
        default_factory=lambda: Recipe(epochs=30, lr=0.01, momentum=0.9, weight_decay=5e-4, augmentation="none")
    )
    """The training, on all real images, of the run's network by whose features k_center and herding choose."""
    networks: tuple[NetworkConfig, ...] = ()
    """Students' networks; the run's network by default."""
    protocol: Protocol | None = None
    """A recipe of the decoupled family's papers, fitted to the set, in place of `recipe`."""
    recipe_name: str = "datm"
    """How the records call the recipe; a protocol has its own name."""
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=1001, lr=None, momentum=0.9, weight_decay=5e-4, batch_size=128, schedule="step"
        )
    )
    """DATM's by default (its section 4.1 and code): the learned step size, SGD with momentum, one decay."""
    augmentations: tuple[str, ...] = ()
    """In place of the recipe's, under each of which every student is trained besides."""
    baselines: tuple[Literal["init", "random", "k_center", "herding", "full"], ...] = ("init", "random", "full")
    """init: where the method started; random, k_center and herding: as many real images; full: all of them."""
    labels: tuple[LabelRegime, ...] | None = None
    """The regimes, under each of which all but `full` is trained on. hard: the classes; stored: the soft labels that
    come with the set, of real images the experts'; for sets that a teacher labels, online: asked in every step, and
    replayed: stored beforehand, of the distilled set alone. By default what the set has: online, or stored and hard, or
    hard."""
    label_epochs: int | None = None
    """Epochs whose labels are stored for `replayed`; fewer than the recipe's are gone through again and again."""
    full_epochs: int = 30
    """Epochs on the full data, whose epochs are longer; the rest of the recipe is the same."""
    full_lr: float | None = None
    """Step size on the full data; the synthetic set's by default."""
    lr: Literal["recipe", "search"] = "recipe"
    """Which step size a set's students have. recipe: the recipe's, or what the distilled set has learned, for all of
    them. search: a third of that, that, 3 and 10 times it, and more where 10 times is best: whichever is best on the
    validation split, beyond chance, for each set by itself; on the full data epochs are doubled then, twice at most, as
    long as that is better still."""
    keep: Literal["nothing", "best"] = "nothing"
    """best: of the students of the distilled set the one that is best on the validation split is kept beside the set,
    to be exported (`raydd export RUN --format student`)."""
    modes: tuple[StageMode, ...] | None = None
    """How the distilled set is trained on. single_shot: all stages at once. chain: the union of stage 0, then that of
    stages 0 and 1, and so on, with one network (PDD). new_only: the images of stage 0, then those of stage 1, and so
    on. By default single_shot, and chain where there are several stages."""
    probes: tuple[Probe, ...] = ()
    """What is asked of the training sets besides; each has a config of its own here."""
    continual: ContinualConfig = field(default_factory=ContinualConfig)
    copies: CopiesConfig = field(default_factory=CopiesConfig)
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    realism: RealismConfig = field(default_factory=RealismConfig)
    robustness: RobustnessConfig = field(default_factory=RobustnessConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    budgets: tuple[Budget, ...] = ("matched",)
    """Epochs that chain and new_only spend on each stage. matched: so many that they take as many optimiser steps in
    all as single_shot. reference: stages.epochs."""

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated."""
        for name in ("num_students", "random_draws", "full_epochs", "label_epochs", "measure_every"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ConfigError(f"evaluate.{name}", f"must be at least 1, is {count}")
        for name in ("modes", "budgets", "labels"):
            if getattr(self, name) == ():
                raise ConfigError(f"evaluate.{name}", "name at least one")
        for name in ("labels", "baselines", "probes"):
            named = getattr(self, name) or ()
            if twice := [value for value in named if named.count(value) > 1]:
                raise ConfigError(f"evaluate.{name}", f"names {twice[0]} twice")
        if "search" in self.probes and "full" not in self.baselines:
            raise ConfigError("evaluate.baselines", "evaluate.search needs the truth: name full as well")
        if self.selector.lr is None:
            raise ConfigError("evaluate.selector.lr", "must be given")
        if self.selector.views is not None:
            raise ConfigError(
                "evaluate.selector.views", "the network learns from classes: give it an augmentation instead"
            )
        self._check_augmentations()

    def _check_augmentations(self) -> None:
        if self.augmentations and (self.protocol is not None or self.recipe.views is not None):
            raise ConfigError("evaluate.augmentations", "are for recipes that augment: this one has views of its own")
        known = [augmentation(self.recipe.augmentation)]
        for number, name in enumerate(self.augmentations):
            try:
                known.append(augmentation(name))
            except ConfigError as error:
                raise ConfigError(f"evaluate.augmentations.{number}", error.problem) from error
            if known[-1] in known[:-1]:
                raise ConfigError(f"evaluate.augmentations.{number}", f"{name} is the recipe's, or named before")

    def check(self, method: MethodConfig, num_stages: int) -> None:
        """See that students of a method's set have a step size and labels, and a teacher's are made where asked for.

        Raises:
            ConfigError: they have not; or there are views where labels come with the set; or a chain of one stage.
        """
        if num_stages == 1 and self.modes not in (None, ("single_shot",)):
            raise ConfigError("evaluate.modes", "the only stage has all the images: take single_shot, or more stages")
        has_views = self.protocol is not None or self.recipe.views is not None
        if method.is_taught and not has_views:
            raise ConfigError(
                "evaluate.recipe.views", "a teacher labels views of images: give them, or take an evaluate.protocol"
            )
        if not method.is_taught and has_views:
            name = "evaluate.recipe.views" if self.protocol is None else "evaluate.protocol"
            raise ConfigError(name, "is for sets that a teacher labels; this method's set has labels of its own")
        if num_stages > 1 and self.lr == "search":
            raise ConfigError("evaluate.lr", "search is for sets of one stage: take recipe")
        if not method.has_learned_lr and self.protocol is None and self.recipe.lr is None:
            raise ConfigError("evaluate.recipe.lr", "this method's set comes without a step size: give one")
        if "stored" in self.regimes(method) and self.protocol is None:
            self._check_loss(method)
        sets = len(self.baselines) + self.random_draws + 1
        if (students := sets * max(1, len(self.networks)) * self.num_students) > _MOST_STUDENTS:
            problem = f"with all draws and networks these are {students:,} students: take at most {_MOST_STUDENTS:,}"
            raise ConfigError("evaluate.num_students", problem)

    def _check_loss(self, method: MethodConfig) -> None:
        try:
            self.recipe.require_labels(method.label_kind)
        except ConfigError as error:
            raise ConfigError(f"evaluate.recipe.{error.field}", error.problem) from error

    def askers(self) -> dict[Probe, Asker]:
        """The probes that are asked for, by name."""
        return {name: getattr(self, name) for name in self.probes}

    def regimes(self, method: MethodConfig) -> tuple[LabelRegime, ...]:
        """The regimes under which a method's set is trained on.

        Raises:
            ConfigError: the set has no such labels.
        """
        taught, soft = method.is_taught, method.has_soft_labels
        own: tuple[LabelRegime, ...] = ("online",) if taught else ("stored", "hard") if soft else ("hard",)
        for labels in self.labels or ():
            if labels == "stored" and not soft:
                raise ConfigError("evaluate.labels", f"the set of {method.name} has no soft labels: leave out stored")
            if labels in ("online", "replayed") and not taught:
                raise ConfigError("evaluate.labels", f"{method.name} has no teacher that labels: leave out {labels}")
        return self.labels or own

    def recipes_for(
        self, network: NetworkConfig, images_per_class: int, num_classes: int, dataset: str
    ) -> list[Recipe]:
        """The recipe of the students of one network, under its own augmentation first and then under the others."""
        own = self.recipe_for(network, images_per_class, num_classes, dataset)
        return [own, *(replace(own, augmentation=name) for name in self.augmentations)]

    def recipe_for(self, network: NetworkConfig, images_per_class: int, num_classes: int, dataset: str) -> Recipe:
        """The recipe of the students of one network."""
        if self.protocol is None:
            return self.recipe
        return protocols.recipe(self.protocol, images_per_class, num_classes, dataset, network)
