"""What students and probes have in common as ingredients of a run."""

from dataclasses import dataclass
from typing import TypeVar

from raydd.ingredients.base import Ingredient, Spread
from raydd.pipeline.runs.run import Run

Recorded = TypeVar("Recorded")


@dataclass(frozen=True)
class RunTrials(Ingredient[Recorded]):
    """Work of a run whose pieces are trials with results of their own, made when nothing is missing."""

    run: Run

    @property
    def spread(self) -> Spread:
        """A trial for each piece."""
        return "trials"

    def is_made(self) -> bool:
        """Whether nothing is missing."""
        return not self.num_missing()
