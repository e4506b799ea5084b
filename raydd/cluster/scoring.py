"""Forgetting scores: one task, as the epochs of one training follow each other."""

import ray

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.pipeline import jobs
from raydd.pipeline.run import Run
from raydd.progress import Progress


def score(run: Run, progress: Progress) -> None:
    """Score the training images; a task that is lost goes on from its last epoch.

    Raises:
        RunError: the task was lost more often than `cluster.max_failures` allows.
    """
    share = runtime.share_resources(run.config.cluster, 1)
    task = ray.remote(_score).options(
        num_cpus=share["CPU"], num_gpus=share.get("GPU", 0), max_retries=run.config.cluster.max_failures
    )
    with relayed(progress) as posted:
        ray.get(task.remote(run, posted))


def _score(run: Run, progress: BoardProgress) -> None:
    jobs.set_up(run)
    jobs.score(run, progress)
