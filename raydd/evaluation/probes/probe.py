"""Probes: what a set gives away and what it is good for, beside the accuracy of students.

A probe is a config in a file of its own that asks questions about training sets and answers them, one at a time and
each by itself; every answer is a record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.data.prepared import PreparedData
from raydd.evaluation.record import Probe
from raydd.evaluation.students.training import TrainingSet
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of one training set, or of a student of it."""

    probe: Probe
    trial: Trial
    """The training set, and the student: its labels, network, recipe and seed."""
    variant: str = ""
    """Which of the probe's questions about them: an order of classes, an architecture."""

    @property
    def work(self) -> Work:
        """What progress is told of."""
        return Work(self.probe, self.variant, self.trial.title)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a probe found."""

    metrics: Mapping[str, float]
    """All that was measured; fractions, unless a probe says otherwise."""
    test_accuracy: float | None = None
    """Of the student at its last epoch, where there is one."""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files by name."""


class View(Protocol):
    """What a probe may look at: a run, as its owner opens it."""

    @property
    def data(self) -> PreparedData:
        """The real data."""

    @property
    def device(self) -> torch.device:
        """Where to compute."""

    @property
    def key(self) -> Key:
        """Of the probe's draws, the same for all sets that it compares."""

    def training_set(self, trial: Trial) -> TrainingSet:
        """What a trial's student is trained on."""

    def student(self, trial: Trial, progress: Progress) -> Network:
        """A trial's student, trained, in evaluation mode on `device`."""

    def observer(self) -> Network:
        """A network that was trained on all the real training images: the fixed feature space, in evaluation mode."""

    def teacher(self) -> nn.Module | None:
        """The run's teacher, in evaluation mode; None where it has none."""

    def prepared(self, question: Question) -> Mapping[str, Tensor]:
        """What was made of one of the probe's preparations."""


class Asker(Protocol):
    """A probe's config; a frozen dataclass that subclasses this."""

    def preparations(self, trials: Sequence[Trial]) -> list[Question]:
        """What several answers need, each made once and by itself before the questions are asked; nothing, mostly."""
        return []

    def prepare(self, question: Question, view: View, progress: Progress) -> Mapping[str, Tensor]:
        """Make one of the preparations: tensors by name."""
        raise NotImplementedError

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """All questions about the training sets of these trials, in a fixed order."""

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """Answer one of them; depends on nothing but question, config and view."""


def settings(asker: Asker) -> dict[str, Any]:
    """What determines a probe's answers beside question and view, for the name of a record."""
    described: dict[str, Any] = asdict(asker)  # type: ignore[call-overload]
    return described


def first_students(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The first students of every set under each regime of labels: those of the first network and recipe."""
    first: dict[tuple[object, ...], Trial] = {}
    chosen: list[Trial] = []
    for trial in trials:
        if trial.mode != "single_shot" or trial.student_seed >= count:
            continue
        leader = first.setdefault((trial.subject, trial.draw, trial.labels), trial)
        if (trial.network, trial.recipe) == (leader.network, leader.recipe):
            chosen.append(trial)
    return chosen


def each_set(trials: Sequence[Trial]) -> list[Trial]:
    """One trial for every training set, whatever its labels, networks, recipes and seeds: the first of them."""
    chosen: dict[tuple[object, ...], Trial] = {}
    for trial in trials:
        if trial.mode == "single_shot":
            chosen.setdefault((trial.subject, trial.draw), trial)
    return list(chosen.values())
