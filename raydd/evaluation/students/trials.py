"""What one student is: a `Trial` with a record of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any, Final, Literal, get_args

from raydd.core.progress import Work
from raydd.evaluation.record import (
    Budget,
    LabelRegime,
    StageMode,
    Subject,
    record_id,
)
from raydd.ingredients.coreset import Coreset
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig

SETS: Final = ("synthetic", "imported")
"""The subjects that are the set itself: as a method distilled it, or as somebody else did."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One student: what it is trained on, which network, which recipe, which seed."""

    subject: Subject
    labels: LabelRegime
    draw: int = 0
    """Which draw of random images."""
    network: NetworkConfig
    recipe: Recipe
    """Of the training on one set; a chain goes through it once a stage."""
    student_seed: int
    mode: StageMode = "single_shot"
    budget: Budget = "reference"
    stage: int = 0
    """The last stage whose images it sees; all others before it have theirs seen too."""
    measure_every: int | None = None
    """Epochs from one measurement to the next; null measures after the last one only."""
    searched: Literal[True] | None = None
    """Whether the step size, and of the full data the epochs, are searched for, and those of the recipe the first that
    are tried."""

    @property
    def work(self) -> Work:
        """What progress is told of."""
        draw = f" {self.draw}" if self.subject == "random" else ""
        way = "" if self.mode == "single_shot" else f", {self.mode} to stage {self.stage} ({self.budget})"
        seen = f"{self.labels} labels, {self.network.label}" + f", {self.recipe.augmentation}" * (not self.recipe.views)
        return Work("student", str(self.student_seed), f"{self.subject}{draw}{way}, {seen}")

    @property
    def title(self) -> str:
        """What it is called where it is worked on."""
        return str(self.work)

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
        return self.selects_real and self.labels == "stored"

    @property
    def selects_real(self) -> bool:
        """Whether its images are some of the real ones."""
        return self.subject == "random" or self.coreset is not None

    @property
    def coreset(self) -> Coreset | None:
        """How its images are chosen from the real ones by a network's features; None where they are not."""
        return next((name for name in get_args(Coreset) if name == self.subject), None)

    @property
    def uses_teacher(self) -> bool:
        """Whether its labels are made by the teacher."""
        return self.labels in ("online", "replayed")

    def record_id(self, test_fingerprint: str, set_key: str, selection_key: str | None = None) -> str:
        """The record's name, which depends on nothing but what determines the student.

        Args:
            test_fingerprint: of the images that the student is tested on.
            set_key: of the synthetic set, and so of the training images; real ones are told apart by subject and draw.
            selection_key: of the selection where there is a `coreset`.
        """
        own = {**{field.name: getattr(self, field.name) for field in fields(self)}, "selection": selection_key}
        unsaid = {name for name in ("measure_every", "searched", "selection") if own[name] is None}
        if self.mode == "single_shot":
            unsaid |= {"mode", "budget", "stage"}
        identity: dict[str, Any] = {
            **{name: value for name, value in own.items() if name not in unsaid},
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

    def identity(self) -> dict[str, Any]:
        """What tells it from others of the same set and teacher, for content keys."""
        return {"views": self.views.identity(), "epochs": self.epochs}

    @classmethod
    def of(cls, trial: Trial, label_epochs: int | None) -> "LabelStore":
        """What a trial's student replays."""
        assert trial.recipe.views is not None
        return cls(views=trial.recipe.views, epochs=label_epochs or trial.recipe.epochs)

    @classmethod
    def needed(cls, trials: Sequence[Trial], label_epochs: int | None) -> list["LabelStore"]:
        """All that some trials' students replay, each once."""
        return list(dict.fromkeys(cls.of(trial, label_epochs) for trial in trials if trial.labels == "replayed"))


def alike(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials in groups that differ in the student's seed alone."""
    return [list(group) for _, group in groupby(trials, lambda trial: replace(trial, student_seed=0))]
