"""What a run asks of whoever does its work."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from raydd.core.progress import Progress
from raydd.data.streamed_images import ImageReader
from raydd.ingredients.base import Ingredient
from raydd.pipeline.runs.inputs import RunInputs


class Executor(Protocol):
    """Who does the work: this process alone, or Ray."""

    @property
    def reader(self) -> ImageReader:
        """Who decodes images that are streamed, in whichever process they are asked for."""

    def check(self, run: RunInputs, progress: Progress) -> None:
        """Refuse a run for which the resources are not there, before anything is written."""

    def make(
        self,
        run: RunInputs,
        wanted: Sequence[Ingredient[Any]],
        progress: Progress,
        others: Sequence[Ingredient[Any]] = (),
    ) -> None:
        """Make ingredients of a run, one after the other: all pieces of each, spread as it says.

        What the first one needs is there, and what the others need, or it is among those before them. Several are all
        of spread `train`: one job makes them. `others` are to be made later, and may be begun beside these once all is
        there that they need; what is begun goes on when this returns, until its turn comes.
        """

    def observers(self, run: RunInputs) -> AbstractContextManager[Sequence[Progress]]:
        """Who looks on besides while this executor works for a run. Refuses trackers that cannot."""
