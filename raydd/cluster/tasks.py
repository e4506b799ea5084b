"""What one training on the real images alone is for, and what is read off it: a task, as epochs follow each other."""

from collections.abc import Callable

import ray

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.cluster.waiting import one_share, result
from raydd.core.progress import Progress
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import real_data

RealDataTask = Callable[[Run, Progress], None]
"""Idempotent work in one process, which keeps its epochs."""


def score(run: Run, progress: Progress) -> None:
    """Score the training images; see `_as_task`."""
    _as_task(real_data.score, run, progress)


def observe(run: Run, progress: Progress) -> None:
    """Train the network that looks at images; see `_as_task`."""
    _as_task(real_data.observe, run, progress)


def select(run: Run, progress: Progress) -> None:
    """Choose the real images that are compared with; see `_as_task`."""
    _as_task(real_data.select, run, progress)


def _as_task(job: RealDataTask, run: Run, progress: Progress) -> None:
    """Do a job in a task; one that is lost goes on from its last epoch.

    Raises:
        ResourceError: the cluster has lost the nodes that could hold the task.
        RunError: the task was lost more often than `cluster.max_failures` allows.
    """
    share = runtime.share_resources(run.config.cluster, 1)
    task = ray.remote(_done).options(
        name=f"{job.__name__} of {run.config.name}",
        num_cpus=share["CPU"],
        num_gpus=share.get("GPU", 0),
        max_retries=run.config.cluster.max_failures,
    )
    with relayed(progress) as posted:
        result(task.remote(job, run, posted), one_share(run.config.cluster, share, progress))


def _done(job: RealDataTask, run: Run, progress: BoardProgress) -> None:
    real_data.set_up(run)
    job(run, progress)
