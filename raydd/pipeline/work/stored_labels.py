"""Labels of views of the distilled set, as an ingredient."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from raydd.core.interruption import Interruption
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress, Progress
from raydd.evaluation.students.trials import LabelStore
from raydd.ingredients import view_labels
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.view_labels import StoredLabels
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.distilled_set import DistilledSet
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Artefact, Folder
from raydd.training.views import ImageViews


@dataclass(frozen=True)
class StoredViewLabels(Ingredient[StoredLabels]):
    """Labels of views of the distilled set, stored epoch by epoch, in any order and by anybody."""

    run: Run
    store: LabelStore

    kind = view_labels.KIND
    title = "labels"

    @property
    def spread(self) -> Spread:
        """Actors that hold the teacher."""
        return "actors"

    def key(self) -> str:
        """Of the set, the teacher and the views."""
        return self.run.labels_key(self.store)

    @property
    def folder(self) -> Folder:
        """One for each key."""
        return self.run.labels(self.store)

    def is_made(self) -> bool:
        """Whether all epochs are stored."""
        return Artefact.find(self.folder) is not None

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The set, and the teacher."""
        return (DistilledSet(self.run, self.run), self.run.teacher)

    def pieces(self) -> Sequence[int]:
        """All epochs; those that are stored take no time."""
        return range(self.store.epochs)

    @property
    def counted(self) -> int:
        """All epochs."""
        return self.store.epochs

    @cached_property
    def _arguments(self) -> tuple[Folder, str, ImageViews, nn.Module, Key]:
        run = self.run
        images = SyntheticSet.load(run.synthetic).images.to(run.device)
        views = ImageViews(images, run.data.preprocessing, self.store.views)
        return self.folder, self.key(), views, run.teacher.open().module, run.key().child("labels")

    def verify(self, is_read: bool) -> None:
        """See that it is as it was written, where it is read."""
        if is_read:
            super().verify(is_read)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Store the labels of one epoch, unless they are."""
        view_labels.label_epoch(*self._arguments, piece)

    def finish(self) -> None:
        """Make an artefact of them."""
        view_labels.make(*self._arguments, self.store.epochs, NoProgress())

    def open(self) -> StoredLabels:
        """The labels."""
        return StoredLabels(Artefact.require(self.folder, self.kind), self._arguments[2])
