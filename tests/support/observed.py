"""Real digits, a network that has learned them, and sets that probes look at."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data import DataConfig
from raydd.data.prepared import PreparedData, prepare
from raydd.evaluation.probes.probe import Answer, Asker, Question, View
from raydd.evaluation.record import Probe
from raydd.evaluation.students.training import TrainingSet, student_training
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe

KEY = Key.root(0)
CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, lr=0.02, momentum=0.9, batch_size=64, augmentation="none")
TRIAL = Trial(
    subject="synthetic", labels="hard", network=NetworkConfig(depth=2, width=8), recipe=RECIPE, student_seed=0
)


@cache
def digits() -> PreparedData:
    return prepare(DataConfig(source="digits"), KEY)


def real_set(per_class: int) -> "Observed":
    """As many training images of each digit."""
    labels = digits().train.labels
    rows = torch.cat([(labels == label).nonzero()[:per_class, 0] for label in range(10)])
    return Observed(digits().train.images[rows], labels[rows])


@cache
def observer() -> Network:
    real = TrainingSet(
        images=digits().train.images,
        targets=digits().train.labels,
        learned_lr=None,
        images_per_class=1,
        bytes_total=1,
    )
    training = student_training([replace(TRIAL, subject="full")], digits(), real, CPU, compiled=False)
    for epoch in range(RECIPE.epochs):
        training.run_epoch(epoch)
    return training.modules[0].eval()


@dataclass(frozen=True)
class Observed(View):
    """The digits, with any images as the set."""

    images: Tensor
    """In network space."""
    targets: Tensor
    classes: Tensor | None = None
    data: PreparedData = digits()
    device: torch.device = CPU
    key: Key = KEY
    asker: Asker | None = None
    """Whose preparations are asked for."""
    has_teacher: bool = False
    """The observer's, where there is one."""

    def training_set(self, trial: Trial) -> TrainingSet:
        return TrainingSet(
            images=self.images,
            targets=self.targets,
            classes=self.classes,
            learned_lr=None,
            images_per_class=1,
            bytes_total=1,
        )

    def observer(self) -> Network:
        return observer()

    def teacher(self) -> nn.Module | None:
        return observer() if self.has_teacher else None

    def prepared(self, question: Question) -> Mapping[str, Tensor]:
        assert self.asker is not None and question in self.asker.preparations([TRIAL])
        return self.asker.prepare(question, self, NoProgress())


def answered(asker: Asker, view: Observed, probe: Probe) -> Answer:
    """What a probe says of the set of a view."""
    return asker.answer(Question(probe=probe, trial=TRIAL), replace(view, asker=asker), NoProgress())


def answers(asker: Asker, view: Observed, probe: Probe) -> dict[str, float]:
    """What a probe measures of the set of a view."""
    return dict(answered(asker, view, probe).metrics)
