"""The ranking of the real training images as an ingredient: in parts, by actors that hold the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress
from raydd.data.streamed_images import Streamed
from raydd.ingredients import ranking
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.ranking import KIND, Parts, Ranking, RankingConfig
from raydd.ingredients.trained_teacher import TrainedTeacher
from raydd.storage import Folder, content_key


@dataclass(frozen=True)
class TeacherRanking(Ingredient[Ranking]):
    """Every training image with its rank by the run's teacher."""

    config: RankingConfig
    teacher: TrainedTeacher

    kind = KIND
    title = "ranking"
    determined_by = ("data", "network", "teacher", "seed")

    @property
    def spread(self) -> Spread:
        """Actors that map the images into memory, or that are handed decoded ones where they are streamed."""
        return "data" if isinstance(self.kitchen.data.train.images, Streamed) else "actors"

    def key(self) -> str:
        """Of the teacher and the images."""
        return content_key({"teacher": self.teacher.key(), "data": self.kitchen.data.fingerprint})

    @property
    def folder(self) -> Folder:
        """The run's own, or in a shared store."""
        return self.kitchen.folder / KIND if self.config.store is None else Folder.at(self.config.store) / self.key()

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The teacher."""
        return (self.teacher,)

    @property
    def parts(self) -> Parts:
        """The scores of the images, as far as they are made."""
        return Parts(self.kitchen.work / "ranking" / self.key(), len(self.kitchen.data.train))

    def pieces(self) -> Sequence[int]:
        """The parts that are not scored."""
        return self.parts.missing()

    @property
    def counted(self) -> int:
        """All parts."""
        return len(self.parts)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Score the images of a part."""
        ranking.score_part(self.teacher.open(), self.kitchen.data.train, self.parts, piece)

    def finish(self) -> None:
        """Put the parts together."""
        ranking.merge(self.kitchen.training_files, self.parts).save(self.folder, self.key())

    @cached_property
    def _opened(self) -> Ranking:
        return Ranking.load(self.folder)

    def open(self) -> Ranking:
        """The ranking."""
        return self._opened
