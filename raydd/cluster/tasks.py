"""Ingredients made by one task, as their steps follow each other; and what is found out where work is done."""

from collections.abc import Sequence
from typing import Any

import ray

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.cluster.waiting import Lookout, one_share, result, waited_for
from raydd.core import process
from raydd.core.interruption import Interrupted
from raydd.core.progress import Progress
from raydd.ingredients.base import Ingredient
from raydd.ingredients.job import make_together
from raydd.pipeline.runs.inputs import RunInputs


def make(run: RunInputs, ingredient: Ingredient[Any], progress: Progress) -> None:
    """Make all pieces in a task; one that is lost goes on from what it kept.

    Raises:
        ResourceError: the cluster has lost the nodes that could hold the task.
        RunError: the task was lost more often than `cluster.max_failures` allows.
    """
    lookout = one_share(run.config.cluster, runtime.share_resources(run.config.cluster, 1), progress)
    with waited_for() as begun, relayed(progress) as posted:
        begun.append(send(run, ingredient, posted))
        result(begun[0], lookout)


def make_job(run: RunInputs, wanted: Sequence[Ingredient[Any]], progress: Progress) -> None:
    """Make ingredients one after the other, as the only worker of a job: a group of one needs no Ray Train.

    Raises:
        Interrupted: a signal ended it; what was under way is saved.
        ResourceError: the cluster has lost the nodes that could hold the worker.
        RunError: the worker was lost more often than `cluster.max_failures` allows.
    """
    cluster, resources = run.config.cluster, runtime.worker_resources(run.config.cluster)
    task = ray.remote(_job).options(
        name=f"{wanted[-1].title} of {run.name}",
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        max_retries=cluster.max_failures,
    )
    lookout = Lookout(resources, 1, "cluster.num_workers", cluster.wait_seconds, progress)
    with waited_for() as begun, relayed(progress) as posted:
        begun.append(task.remote(run, wanted, posted))
        interrupted = result(begun[0], lookout)
    if interrupted is not None:
        raise interrupted


def send(run: RunInputs, ingredient: Ingredient[Any], progress: BoardProgress) -> ray.ObjectRef:
    """Begin the task that makes all pieces."""
    share = runtime.share_resources(run.config.cluster, 1)
    task = ray.remote(_made).options(
        name=f"{ingredient.title} of {run.name}",
        num_cpus=share["CPU"],
        num_gpus=share.get("GPU", 0),
        max_retries=run.config.cluster.max_failures,
    )
    return task.remote(run, ingredient, progress)


def pieces(run: RunInputs, ingredient: Ingredient[Any], progress: Progress) -> Sequence[Any]:
    """The pieces that are missing; how they are packed for a GPU is found on one."""
    share = runtime.share_resources(run.config.cluster, 1)
    if "GPU" not in share:
        return ingredient.pieces()
    name = f"pieces of {ingredient.title} of {run.name}"
    choose = ray.remote(_pieces).options(name=name, num_cpus=share["CPU"], num_gpus=share["GPU"])
    found: list[Any] = result(choose.remote(run, ingredient), one_share(run.config.cluster, share, progress))
    return found


def _made(run: RunInputs, ingredient: Ingredient[Any], progress: BoardProgress) -> None:
    process.set_up(run.config.cluster.threads_per_worker)
    for piece in ingredient.pieces():
        ingredient.make(piece, progress)


def _job(run: RunInputs, wanted: Sequence[Ingredient[Any]], progress: BoardProgress) -> Interrupted | None:
    """An interruption is returned: Ray takes one that is raised for its own, of a task that was cancelled."""
    process.set_up(run.config.cluster.threads_per_worker)
    try:
        make_together(wanted, progress, progress)
    except Interrupted as interrupted:
        return interrupted
    return None


def _pieces(run: RunInputs, ingredient: Ingredient[Any]) -> list[Any]:
    process.set_up(run.config.cluster.threads_per_worker)
    return list(ingredient.pieces())
