"""Which students a run trains: every subject x draw x network x seed, each a `Trial` with its own record.

Beside the distilled set, and its average over the iterations where the method keeps one, stand under the same recipe
what it has to beat: random real images of the same number with
hard labels and with the experts' soft labels, the method's own starting state, and all the real data.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from raydd.errors import ConfigError
from raydd.evaluation.records import record_id
from raydd.networks import NetworkConfig
from raydd.training import Recipe

Subject = Literal["synthetic", "ema", "init", "random", "full"]
Labels = Literal["hard", "stored"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Students and what they are compared with."""

    num_students: int = 5
    """Students of each set, with seeds 0, 1, ..."""
    random_draws: int = 3
    """Draws of random real images, each with its own students."""
    networks: tuple[NetworkConfig, ...] = ()
    """Students' networks; the run's network by default."""
    recipe_name: str = "datm"
    """How the records call the recipe."""
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
    full_epochs: int = 30
    """Epochs on the full data, whose epochs are longer; the rest of the recipe is the same."""
    full_lr: float | None = None
    """Step size on the full data; the synthetic set's by default."""

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated."""
        for name in ("num_students", "random_draws", "full_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.{name}", f"must be at least 1, is {getattr(self, name)}")


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

    def record_id(self, test_fingerprint: str, set_key: str) -> str:
        """The record's name, which depends on nothing but what determines the student.

        Args:
            test_fingerprint: of the images that the student is tested on.
            set_key: of the synthetic set, and so of the training images; real ones are told apart by subject and draw.
        """
        identity: dict[str, Any] = {
            **asdict(self),
            "recipe": self.recipe.identity(),
            "test": test_fingerprint,
            "set": set_key,
        }
        return record_id(identity)


def plan_trials(
    config: EvaluateConfig, network: NetworkConfig, soft_labels: bool, averaged: bool = False
) -> list[Trial]:
    """All trials of a run, in a fixed order: the distilled set first, the full data last.

    Args:
        config: what to train.
        network: the run's network.
        soft_labels: whether the method's labels are soft.
        averaged: whether the method keeps an average of its images too.
    """
    labels: Labels = "stored" if soft_labels else "hard"
    subjects: list[tuple[Subject, Labels, int, Recipe]] = [("synthetic", labels, 0, config.recipe)]
    if averaged:
        subjects.append(("ema", labels, 0, config.recipe))
    if "init" in config.baselines:
        subjects.append(("init", labels, 0, config.recipe))
    for draw in range(config.random_draws):
        if "random" in config.baselines:
            subjects.append(("random", "hard", draw, config.recipe))
        if "random_stored" in config.baselines and soft_labels:
            subjects.append(("random", "stored", draw, config.recipe))
    if "full" in config.baselines:
        lr = config.recipe.lr if config.full_lr is None else config.full_lr
        subjects.append(("full", "hard", 0, replace(config.recipe, epochs=config.full_epochs, lr=lr)))
    return [
        Trial(subject=subject, labels=regime, draw=draw, network=student, recipe=recipe, student_seed=seed)
        for subject, regime, draw, recipe in subjects
        for student in config.networks or (network,)
        for seed in range(1 if subject == "full" else config.num_students)
    ]
