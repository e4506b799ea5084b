"""The teacher as an ingredient: trained by workers that share each batch, or taken over from a file."""

from dataclasses import dataclass, replace
from functools import cached_property

from raydd.core.interruption import Interruption
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.ingredients import teacher
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.class_order import require_known_classes
from raydd.ingredients.setting import setting
from raydd.ingredients.teacher import KIND, Teacher, TeacherConfig
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder, content_key
from raydd.storage.checkpoints import Checkpoints, is_first_worker


@dataclass(frozen=True)
class TrainedTeacher(Ingredient[Teacher]):
    """The run's teacher, which other runs may share."""

    config: TeacherConfig
    network: NetworkConfig
    seed: int
    epochs: frozenset[int] = frozenset()
    """After which it is needed besides, counted from 1."""

    kind = KIND
    title = "teacher"
    determined_by = ("data", "network", "teacher", "seed")

    @property
    def spread(self) -> Spread:
        """One job of workers; one that is taken over from a file needs none."""
        return "train" if self.config.weights is None else "here"

    @cached_property
    def _key(self) -> str:
        return content_key(teacher.teacher_identity(self.config, self.network, self.kitchen.data, self.seed))

    def key(self) -> str:
        """Of network, data, recipe and seed, or of the file."""
        return self._key

    @property
    def folder(self) -> Folder:
        """The run's own, or in a shared store."""
        return self.kitchen.folder / KIND if self.config.store is None else Folder.at(self.config.store) / self.key()

    def is_made(self) -> bool:
        """Whether it is trained, and can be opened after all epochs that are needed."""
        return super().is_made() and self.epochs <= self.stored_epochs()

    def stored_epochs(self) -> frozenset[int]:
        """The epochs after which the stored one can be opened; a run that adds some keeps those of others."""
        return Teacher.stored_epochs(self.folder)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Train it, or take it over; several workers share the work, and the first one stores it."""
        kitchen = self.kitchen
        config = replace(self.config, seed=self.seed)
        checkpoints = Checkpoints(kitchen.work / "checkpoints", f"teacher-{self.key()}")
        if config.weights is not None:
            made = teacher.from_weights(config, self.network, kitchen.data, kitchen.device)
            require_known_classes(made.module, kitchen.data, config.weights)
        else:
            made = teacher.train_teacher(
                config,
                setting(kitchen, self.network, config.training),
                Key.root(self.seed).child("teacher"),
                checkpoints,
                progress,
                kept_epochs=sorted(self.epochs | self.stored_epochs()),
            )
        if is_first_worker():
            made.save(self.folder, self.key())
            checkpoints.delete()

    @cached_property
    def _opened(self) -> Teacher:
        return self.at(None)

    def open(self) -> Teacher:
        """The teacher, once it has shown on held-out data that it is the one of its card."""
        return self._opened

    def at(self, epoch: int | None) -> Teacher:
        """As it was after an epoch; None for the finished one.

        Raises:
            UserError: there is none, or it is not that of its card.
        """
        found = Teacher.load(self.folder, self.kitchen.device, epoch)
        found.check(self.kitchen.data)
        return found
