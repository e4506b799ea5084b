"""Which students a run trains: every subject x labels x draw x network x seed, each a `Trial` with its own record.

Beside the distilled set, and its average over the iterations where the method keeps one, stand under the same recipe
what it has to beat: random real images of the same number with hard labels and with the experts' soft labels, the
method's own starting state, and all the real data. Where labels come from a teacher, every set is trained on under each
regime of `evaluate.labels`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from raydd.errors import ConfigError
from raydd.evaluation import protocols
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.records import Labels, Subject, record_id
from raydd.methods import MethodConfig
from raydd.methods.base import WorksOn
from raydd.networks import NetworkConfig
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

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated."""
        for name in ("num_students", "random_draws", "full_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.{name}", f"must be at least 1, is {getattr(self, name)}")
        if self.label_epochs is not None and self.label_epochs < 1:
            raise ConfigError("evaluate.label_epochs", f"must be at least 1, is {self.label_epochs}")

    def check(self, works_on: WorksOn) -> None:
        """See that the recipe says how a teacher's labels are made where they are asked for, and a step size.

        Raises:
            ConfigError: it does not; or it asks for them where labels come with the set.
        """
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
    student_seed: int

    @property
    def title(self) -> str:
        """What progress calls it."""
        draw = f" {self.draw}" if self.subject == "random" else ""
        return f"student {self.student_seed} of {self.subject}{draw}, {self.labels} labels, {self.network.label}"

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
        identity: dict[str, Any] = {
            **asdict(self),
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
    config: EvaluateConfig, network: NetworkConfig, method: MethodConfig, num_classes: int, dataset: str
) -> list[Trial]:
    """All trials of a run, in a fixed order: the distilled set first, the full data last.

    Args:
        config: what to train.
        network: the run's network.
        method: what made the set.
        num_classes: K.
        dataset: its name.
    """
    return [
        Trial(
            subject=subject,
            labels=labels,
            draw=draw,
            network=student,
            recipe=_adapted(recipe, subject, labels, config),
            student_seed=seed,
        )
        for subject, labels, draw in _subjects(config, method)
        for student in config.networks or (network,)
        for recipe in [config.recipe_for(student, method.images_per_class, num_classes, dataset)]
        for seed in range(1 if subject == "full" else config.num_students)
    ]


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
