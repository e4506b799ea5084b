"""Ingredients made by a pool of actors, each of which makes one piece after the other."""

from typing import Any

import ray

from raydd.cluster import actor_pool, tasks
from raydd.cluster.progress import BoardProgress, relayed
from raydd.core import process
from raydd.core.progress import Progress, Work
from raydd.ingredients.base import Ingredient
from raydd.pipeline.runs.inputs import RunInputs


@ray.remote
class Maker:
    """Makes pieces of an ingredient. Ray restarts it when it dies, and the piece goes on from what was kept of it."""

    def __init__(self, run: RunInputs, ingredient: Ingredient[Any]) -> None:
        """Set up the process."""
        process.set_up(run.config.cluster.threads_per_worker)
        self._title = f"{ingredient.title} of {run.name}"
        self._ingredient = ingredient

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return self._title

    def make(self, piece: Any, progress: BoardProgress) -> None:
        """Make one piece; all actors of a node share the mapped data through the page cache."""
        self._ingredient.make(piece, progress)


def make(run: RunInputs, ingredient: Ingredient[Any], progress: Progress) -> None:
    """Make all pieces with as many actors as the cluster holds.

    Raises:
        RunError: a piece failed, or its actor died more often than `cluster.max_failures` allows.
    """
    pieces = tasks.pieces(run, ingredient, progress)
    if not pieces:
        return
    whose = f"an actor for {ingredient.title}"
    with (
        relayed(progress) as posted,
        actor_pool.actors(Maker, whose, (run, ingredient), run.config.cluster, len(pieces), progress) as makers,
    ):
        for done in makers.work_off("make", [(piece, posted) for piece in pieces]):
            if (total := ingredient.counted) is not None:
                progress.update(Work.titled(ingredient.title), total - len(pieces) + done, total)
