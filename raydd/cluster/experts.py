"""Expert trajectories in parallel: a pool of actors, each of which trains one pack of experts after the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.errors import RunError
from raydd.experts import packs
from raydd.pipeline import choices, jobs
from raydd.pipeline.run import Run
from raydd.progress import Progress


@ray.remote
class ExpertTrainer:
    """Trains experts. Ray restarts it when it dies, and the expert goes on from its last epoch."""

    def __init__(self, run: Run) -> None:
        """Take the run alone: Ray cannot promise to restart an actor whose constructor was given a handle."""
        jobs.set_up(run)
        self._run = run

    def choose_pack(self) -> int:
        """How many experts an actor is to train side by side."""
        return choices.pack(self._run)

    def train(self, numbers: list[int], progress: BoardProgress) -> None:
        """Train some experts to their end; all actors of a node share the mapped data through the page cache."""
        jobs.train_experts(self._run, numbers, progress)


def train_experts(run: Run, numbers: Sequence[int], progress: Progress) -> None:
    """Train these experts with as many actors as the cluster holds.

    Raises:
        RunError: an expert failed, or its actor died more often than `cluster.max_failures` allows.
    """
    with relayed(progress) as posted, pool(run, len(numbers)) as actors:
        try:
            _run_pool(actors, packs(numbers, ray.get(actors[0].choose_pack.remote())), posted)
        except ray.exceptions.RayActorError as error:
            times = run.config.cluster.max_failures + 1
            raise RunError(f"an expert's actor died {times} times: {error}") from error


@contextmanager
def pool(run: Run, count: int) -> Iterator[list[ray.actor.ActorHandle]]:
    """At most `count` actors, on all GPUs where there are any."""
    cluster = run.config.cluster
    share = runtime.share_resources(cluster, count)
    options = {
        "num_cpus": share["CPU"],
        "num_gpus": share.get("GPU", 0),
        "max_restarts": cluster.max_failures,
        "max_task_retries": cluster.max_failures,
    }
    size = min(count, runtime.how_many_fit(share))
    actors = [ExpertTrainer.options(**options).remote(run) for _ in range(size)]  # type: ignore[attr-defined]
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


def _run_pool(actors: list[ray.actor.ActorHandle], groups: list[list[int]], progress: BoardProgress) -> None:
    """Keep every actor busy until all experts are trained."""
    idle = list(actors)
    flying: dict[ray.ObjectRef, ray.actor.ActorHandle] = {}
    while groups or flying:
        while groups and idle:
            actor = idle.pop()
            flying[actor.train.remote(groups.pop(0), progress)] = actor
        (done,), _ = ray.wait(list(flying), num_returns=1)
        idle.append(flying.pop(done))
        ray.get(done)
