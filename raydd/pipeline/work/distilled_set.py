"""The distilled set as an ingredient: the union of the stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress
from raydd.ingredients.base import SIGNALS, Claim, Ingredient, Spread
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import distill
from raydd.pipeline.work.stages import SETS_DETERMINED_BY, StageSet
from raydd.sets.synthetic import KIND as SYNTHETIC
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import verify_below


@dataclass(frozen=True)
class DistilledSet(Ingredient[SyntheticSet]):
    """The distilled set: the union of all stages, and of their averages where there are such."""

    run: Run

    kind = SYNTHETIC
    title = "union"
    determined_by = SETS_DETERMINED_BY

    @property
    def spread(self) -> Spread:
        """Files are read and written."""
        return "here"

    def key(self) -> str:
        """Of the union of all stages."""
        return self.run.synthetic_key

    def is_made(self) -> bool:
        """Whether it is finished, and its average where there has to be one."""
        return self.run.has_synthetic()

    def claims(self) -> Sequence[Claim]:
        """Its folder and that of the average, where a union of fewer stages may stand."""
        keys = frozenset(stage.union_key for stage in self.run.stages)
        return [Claim(SYNTHETIC, folder, keys) for folder in (self.run.synthetic, self.run.average)]

    def verify(self, is_read: bool) -> None:
        """See that both are as they were written."""
        for folder in (self.run.synthetic, self.run.average):
            verify_below(folder)

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """All stages."""
        return tuple(StageSet(self.run, self.run, stage.number) for stage in self.run.stages)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Write what is not there."""
        run = self.run
        for name in run.sets:
            if not run.has_set(run.folder / name):
                made = distill.described(run.last_stage, run.last_stage.union(name))
                made.save(run.folder / name, run.synthetic_key)

    def open(self) -> SyntheticSet:
        """The set."""
        return SyntheticSet.load(self.run.synthetic)
