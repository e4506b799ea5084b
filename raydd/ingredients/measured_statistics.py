"""The statistics of the real data as an ingredient: in pieces, by actors that hold the teacher."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.statistics import KIND, DataStatistics, Pieces, StatisticsWanted
from raydd.ingredients.teacher import Teacher
from raydd.storage import content_key


@dataclass(frozen=True)
class MeasuredStatistics(Ingredient[DataStatistics]):
    """What the run's teacher sees of the training images."""

    teacher: Ingredient[Teacher]
    asked: StatisticsWanted

    kind = KIND
    title = KIND
    determined_by = ("data", "network", "teacher", "method", "seed")

    @property
    def spread(self) -> Spread:
        """Actors that hold the teacher; images that are streamed are decoded where they are measured."""
        return "actors"

    @cached_property
    def _key(self) -> str:
        sources = {"teacher": self.teacher.key(), "data": self.kitchen.data.fingerprint}
        return content_key({**sources, "asked": asdict(self.asked)})

    def key(self) -> str:
        """Of the teacher, the images, and what is asked."""
        return self._key

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The teacher."""
        return (self.teacher,)

    @cached_property
    def parts(self) -> Pieces:
        """The sums, as far as they are made."""
        data = self.kitchen.data
        return Pieces(self.kitchen.work / KIND / self.key(), data.train.labels, data.class_names)

    def pieces(self) -> Sequence[int]:
        """Those that are not measured."""
        return self.parts.missing()

    @property
    def counted(self) -> int:
        """All pieces."""
        return len(self.parts.all)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Measure the images of a piece."""
        self.parts.measure(piece, self.teacher.open(), self.kitchen.data.train, self.asked)

    def finish(self) -> None:
        """Put the pieces together, and forget them."""
        parts, sources = self.parts, (self.teacher.key(), self.kitchen.data.fingerprint)
        DataStatistics.save(self.folder, self.key(), parts, self.asked, sources)
        parts.folder.delete_all()

    @cached_property
    def _opened(self) -> DataStatistics:
        return DataStatistics.load(self.folder)

    def open(self) -> DataStatistics:
        """The statistics."""
        return self._opened
