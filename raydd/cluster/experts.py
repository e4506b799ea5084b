"""Expert trajectories in parallel: a pool of actors, each of which trains one expert after the other."""

from collections.abc import Sequence

import ray

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.errors import RunError
from raydd.pipeline import jobs
from raydd.pipeline.run import Run
from raydd.progress import Progress


@ray.remote
class ExpertTrainer:
    """Trains experts. Ray restarts it when it dies, and the expert goes on from its last epoch."""

    def __init__(self, run: Run, progress: BoardProgress) -> None:
        """Map the data, which all actors of a node share through the page cache."""
        jobs.set_threads(run)
        self._run = run
        self._progress = progress

    def train(self, number: int) -> None:
        """Train one expert to its end."""
        jobs.train_expert(self._run, number, self._progress)


def train_experts(run: Run, numbers: Sequence[int], progress: Progress) -> None:
    """Train these experts with as many actors as the cluster holds.

    Raises:
        RunError: an expert failed, or its actor died more often than `cluster.max_failures` allows.
    """
    cluster = run.config.cluster
    share = runtime.share_resources(cluster)
    options = {
        "num_cpus": share["CPU"],
        "num_gpus": share.get("GPU", 0),
        "max_restarts": cluster.max_failures,
        "max_task_retries": cluster.max_failures,
    }
    with relayed(progress) as posted:
        count = min(len(numbers), runtime.how_many_fit(share))
        actors = [ExpertTrainer.options(**options).remote(run, posted) for _ in range(count)]  # type: ignore[attr-defined]
        try:
            _run_pool(actors, list(numbers))
        except ray.exceptions.RayActorError as error:
            raise RunError(f"an expert's actor died {cluster.max_failures + 1} times: {error}") from error
        finally:
            for actor in actors:
                ray.kill(actor)


def _run_pool(actors: list[ray.actor.ActorHandle], numbers: list[int]) -> None:
    """Keep every actor busy until all experts are trained."""
    idle = list(actors)
    flying: dict[ray.ObjectRef, ray.actor.ActorHandle] = {}
    while numbers or flying:
        while numbers and idle:
            actor = idle.pop()
            flying[actor.train.remote(numbers.pop(0))] = actor
        (done,), _ = ray.wait(list(flying), num_returns=1)
        idle.append(flying.pop(done))
        ray.get(done)
