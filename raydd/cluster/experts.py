"""Expert trajectories in parallel: a pool of actors, each of which trains one pack of experts after the other."""

from collections.abc import Sequence

import ray

from raydd.cluster import actor_pool
from raydd.cluster.progress import BoardProgress, relayed
from raydd.core.progress import Progress
from raydd.ingredients.experts import packs
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import auto, real_data


@ray.remote
class ExpertTrainer:
    """Trains experts. Ray restarts it when it dies, and the expert goes on from its last epoch."""

    def __init__(self, run: Run) -> None:
        """Set up the process."""
        real_data.set_up(run)
        self._run = run

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return f"experts of {self._run.config.name}"

    def choose_pack(self) -> int:
        """How many experts an actor is to train side by side."""
        return auto.pack(self._run)

    def train(self, numbers: list[int], progress: BoardProgress) -> None:
        """Train some experts to their end; all actors of a node share the mapped data through the page cache."""
        real_data.train_experts(self._run, numbers, progress)


def train_experts(run: Run, numbers: Sequence[int], progress: Progress) -> None:
    """Train these experts with as many actors as the cluster holds.

    Raises:
        RunError: an expert failed, or its actor died more often than `cluster.max_failures` allows.
    """
    with (
        relayed(progress) as posted,
        actor_pool.actors(ExpertTrainer, "an expert's actor", run, len(numbers), progress) as trainers,
    ):
        groups = packs(numbers, trainers.ask("choose_pack"))
        for _ in trainers.work_off("train", [(group, posted) for group in groups]):
            pass
