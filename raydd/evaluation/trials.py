"""Which students a run trains: every subject x labels x draw x network x seed, each a `Trial` with its own record.

Beside the distilled set, and its average over the iterations where the method keeps one, stand under the same recipe
what it has to beat: random real images of the same number with hard labels and with the experts' soft labels, the
method's own starting state, and all the real data. Where labels come from a teacher, every set is trained on under each
regime of `evaluate.labels`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, groupby
from typing import Any, Literal

from raydd.errors import ConfigError
from raydd.evaluation import protocols
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.records import Budget, Labels, Mode, Subject, record_id
from raydd.methods import MethodConfig
from raydd.methods.base import WorksOn
from raydd.networks import NetworkConfig
from raydd.progressive import StagesConfig, matched_epochs
from raydd.training import Recipe
from raydd.views import ViewsConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Students and what they are compared with."""

    num_students: int = 5
    """Students of each set, with seeds 0, 1, ..."""
    random_draws: int = 3
    """Draws of random real images, each with its own students."""
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
    baselines: tuple[Literal["init", "random", "random_stored", "full"], ...] = (
        "init",
        "random",
        "random_stored",
        "full",
    )
    """random_stored: random images with the experts' soft labels, only where the method's labels are soft."""
    labels: tuple[Literal["online", "replayed", "hard"], ...] = ("online",)
    """For sets that come without labels: the teacher's, asked in every step or stored beforehand, or the classes."""
    label_epochs: int | None = None
    """Epochs whose labels are stored for `replayed`; fewer than the recipe's are gone through again and again."""
    full_epochs: int = 30
    """Epochs on the full data, whose epochs are longer; the rest of the recipe is the same."""
    full_lr: float | None = None
    """Step size on the full data; the synthetic set's by default."""
    modes: tuple[Mode, ...] | None = None
    """How the distilled set is trained on. single_shot: all stages at once. chain: the union of stage 0, then that of
    stages 0 and 1, and so on, with one network (PDD). new_only: the images of stage 0, then those of stage 1, and so
    on. By default single_shot, and chain where there are several stages."""
    budgets: tuple[Budget, ...] = ("matched",)
    """Epochs that chain and new_only spend on each stage. matched: so many that they take as many optimiser steps in
    all as single_shot. reference: stages.epochs."""

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated."""
        for name in ("num_students", "random_draws", "full_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.{name}", f"must be at least 1, is {getattr(self, name)}")
        for name in ("modes", "budgets"):
            if getattr(self, name) == ():
                raise ConfigError(f"evaluate.{name}", "name at least one")
        if self.label_epochs is not None and self.label_epochs < 1:
            raise ConfigError("evaluate.label_epochs", f"must be at least 1, is {self.label_epochs}")

    def check(self, works_on: WorksOn, num_stages: int) -> None:
        """See that the recipe says how a teacher's labels are made where they are asked for, and a step size.

        Raises:
            ConfigError: it does not; or it asks for them where labels come with the set; or for a chain of one stage.
        """
        if num_stages == 1 and self.modes not in (None, ("single_shot",)):
            raise ConfigError("evaluate.modes", "the only stage has all the images: take single_shot, or more stages")
        if works_on != "trajectories" and self.protocol is None and self.recipe.lr is None:
            raise ConfigError("evaluate.recipe.lr", "this method learns no step size: give one")
        has_views = self.protocol is not None or self.recipe.views is not None
        if works_on == "teacher" and not has_views:
            raise ConfigError(
                "evaluate.recipe.views", "a teacher labels views of images: give them, or take an evaluate.protocol"
            )
        if works_on != "teacher" and has_views:
            name = "evaluate.recipe.views" if self.protocol is None else "evaluate.protocol"
            raise ConfigError(name, "is for sets that a teacher labels; this method's set has labels of its own")

    def recipe_for(self, network: NetworkConfig, images_per_class: int, num_classes: int, dataset: str) -> Recipe:
        """The recipe of the students of one network."""
        if self.protocol is None:
            return self.recipe
        return protocols.recipe(self.protocol, images_per_class, num_classes, dataset, network)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One student: what it is trained on, which network, which recipe, which seed."""

    subject: Subject
    labels: Labels
    draw: int = 0
    """Which draw of random images."""
    network: NetworkConfig
    recipe: Recipe
    """Of the training on one set; a chain goes through it once a stage."""
    student_seed: int
    mode: Mode = "single_shot"
    budget: Budget = "reference"
    stage: int = 0
    """The last stage whose images it sees; all others before it have theirs seen too."""

    @property
    def title(self) -> str:
        """What progress calls it."""
        draw = f" {self.draw}" if self.subject == "random" else ""
        way = "" if self.mode == "single_shot" else f", {self.mode} to stage {self.stage} ({self.budget})"
        return f"student {self.student_seed} of {self.subject}{draw}{way}, {self.labels} labels, {self.network.label}"

    @property
    def number(self) -> int:
        """Which training this is of those that the student goes through, from 0."""
        return 0 if self.mode == "single_shot" else self.stage

    def legs(self) -> list["Trial"]:
        """The trainings that the student goes through, each with a record of its own."""
        if self.mode == "single_shot":
            return [self]
        return [replace(self, stage=stage) for stage in range(self.stage + 1)]

    @property
    def uses_experts(self) -> bool:
        """Whether its labels are made by the experts, and not stored with its images."""
        return self.subject == "random" and self.labels == "stored"

    @property
    def uses_teacher(self) -> bool:
        """Whether its labels are made by the teacher."""
        return self.labels in ("online", "replayed")

    def record_id(self, test_fingerprint: str, set_key: str) -> str:
        """The record's name, which depends on nothing but what determines the student.

        Args:
            test_fingerprint: of the images that the student is tested on.
            set_key: of the synthetic set, and so of the training images; real ones are told apart by subject and draw.
        """
        own = asdict(self)
        if self.mode == "single_shot":
            own = {name: value for name, value in own.items() if name not in ("mode", "budget", "stage")}
        identity: dict[str, Any] = {
            **own,
            "network": self.network.identity(),
            "recipe": self.recipe.identity(),
            "test": test_fingerprint,
            "set": set_key,
        }
        return record_id(identity)


@dataclass(frozen=True, kw_only=True)
class LabelStore:
    """Labels of the distilled set that `replayed` students of one recipe share."""

    views: ViewsConfig
    epochs: int

    @classmethod
    def of(cls, trial: Trial, config: EvaluateConfig) -> "LabelStore":
        """What a trial's student replays."""
        assert trial.recipe.views is not None
        return cls(views=trial.recipe.views, epochs=config.label_epochs or trial.recipe.epochs)

    @classmethod
    def needed(cls, trials: Sequence[Trial], config: EvaluateConfig) -> list["LabelStore"]:
        """All that some trials' students replay, each once."""
        return list(dict.fromkeys(cls.of(trial, config) for trial in trials if trial.labels == "replayed"))


def plan_trials(
    config: EvaluateConfig,
    network: NetworkConfig,
    methods: Sequence[MethodConfig],
    stages: StagesConfig,
    num_classes: int,
    dataset: str,
) -> list[Trial]:
    """All trials of a run, in a fixed order: the distilled set first, the full data last.

    Args:
        config: what to train.
        network: the run's network.
        methods: what made each stage.
        stages: what chains take from it: epochs on each stage.
        num_classes: K.
        dataset: its name.
    """
    sizes = [num_classes * method.images_per_class * method.decoded_images for method in methods]
    images_per_class = sum(method.images_per_class for method in methods)
    return [
        Trial(
            subject=subject,
            labels=labels,
            draw=draw,
            network=student,
            recipe=_adapted(_paced(recipe, mode, budget, stages, sizes), subject, labels, config),
            student_seed=seed,
            mode=mode,
            budget=budget,
            stage=len(methods) - 1,
        )
        for subject, labels, draw in _subjects(config, methods[-1])
        for student in config.networks or (network,)
        for recipe in [config.recipe_for(student, images_per_class, num_classes, dataset)]
        for mode, budget in _ways(config, subject, labels, len(methods))
        for seed in range(1 if subject == "full" else config.num_students)
    ]


def _ways(config: EvaluateConfig, subject: Subject, labels: Labels, num_stages: int) -> list[tuple[Mode, Budget]]:
    """How a set is trained on: the distilled one in all ways, what it is compared with at once."""
    modes: tuple[Mode, ...] = config.modes or (("single_shot",) if num_stages == 1 else ("chain", "single_shot"))
    once: list[tuple[Mode, Budget]] = [("single_shot", "reference")]
    if subject != "synthetic":
        return once
    chained = [(mode, budget) for mode in modes for budget in config.budgets if mode != "single_shot"]
    return (chained if labels != "replayed" else []) + (once if "single_shot" in modes else [])


def _paced(recipe: Recipe, mode: Mode, budget: Budget, stages: StagesConfig, sizes: Sequence[int]) -> Recipe:
    """The recipe with the epochs that a way of training spends on each of its sets.

    Args:
        recipe: for everything at once.
        mode: how the set is trained on.
        budget: of chains.
        stages: epochs of the reference budget.
        sizes: images of each stage.
    """
    if mode == "single_shot":
        return recipe
    if budget == "reference":
        return replace(recipe, epochs=stages.epochs)
    seen = accumulate(sizes) if mode == "chain" else sizes
    steps = [math.ceil(images / recipe.batch_size) for images in seen]
    return replace(recipe, epochs=matched_epochs(recipe.steps(sum(sizes)), steps))


def alike(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials in groups that differ in the student's seed alone."""
    return [list(group) for _, group in groupby(trials, lambda trial: replace(trial, student_seed=0))]


def _subjects(config: EvaluateConfig, method: MethodConfig) -> list[tuple[Subject, Labels, int]]:
    """Training sets with their labels and, of random images, the draw."""
    own: tuple[Labels, ...] = ("stored" if method.has_soft_labels else "hard",)
    if method.works_on == "teacher":
        own = config.labels
    subjects: list[tuple[Subject, Labels, int]] = [("synthetic", labels, 0) for labels in own]
    if method.has_average:
        subjects += [("ema", labels, 0) for labels in own]
    compared = [labels for labels in own if labels != "replayed"]
    if "init" in config.baselines:
        subjects += [("init", labels, 0) for labels in compared]
    of_random: list[Labels] = list(compared if method.works_on == "teacher" else ("hard",))
    if "random" not in config.baselines:
        of_random = []
    if "random_stored" in config.baselines and method.has_soft_labels:
        of_random.append("stored")
    subjects += [("random", labels, draw) for draw in range(config.random_draws) for labels in of_random]
    return [*subjects, ("full", "hard", 0)] if "full" in config.baselines else subjects


def _adapted(recipe: Recipe, subject: Subject, labels: Labels, config: EvaluateConfig) -> Recipe:
    """The recipe on classes in place of logits, and on the full data, whose epochs are longer."""
    if labels == "hard":
        recipe = replace(recipe, temperature=1.0)
    if subject == "full":
        lr = recipe.lr if config.full_lr is None else config.full_lr
        recipe = replace(recipe, epochs=config.full_epochs, lr=lr)
    return recipe
