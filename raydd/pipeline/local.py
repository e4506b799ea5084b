"""The executor without Ray: the same work, one thing after the other, in this process."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from raydd.core import process
from raydd.core.errors import ConfigError, ResourceError
from raydd.core.progress import Progress
from raydd.data.streamed_images import read_here
from raydd.ingredients.base import Ingredient, make_here
from raydd.pipeline import memory
from raydd.pipeline.runs.inputs import RunInputs


class LocalExecutor:
    """Runs everything here."""

    reader = staticmethod(read_here)
    """Decodes images that are streamed."""

    def check(self, run: RunInputs, progress: Progress) -> None:
        """Refuse what needs several processes, or more memory than there is."""
        workers = run.config.cluster.num_workers
        if workers not in ("auto", 1):
            raise ResourceError(f"cluster.num_workers: {workers} workers need Ray; leave out --no-ray or ask for 1")
        memory.require(run)

    def make(
        self,
        run: RunInputs,
        wanted: Sequence[Ingredient[Any]],
        progress: Progress,
        others: Sequence[Ingredient[Any]] = (),
    ) -> None:
        """Make all pieces, one after the other, and nothing beside them."""
        process.set_up(run.config.cluster.threads_per_worker)
        for ingredient in wanted:
            make_here(ingredient, progress)

    def observers(self, run: RunInputs) -> AbstractContextManager[Sequence[Progress]]:
        """Nobody; refuse trackers that are told by Ray Tune."""
        if of_tune := [tracker for tracker in run.config.cluster.trackers if tracker != "tensorboard"]:
            raise ConfigError("cluster.trackers", f"{of_tune[0]} needs Ray: leave out --no-ray, or {of_tune[0]}")
        return nullcontext(())
