"""Stored labels of a distilled set: actors that hold the teacher, each labelling epoch after epoch."""

import ray

from raydd.cluster import actor_pool
from raydd.core.progress import NoProgress, Progress, Work
from raydd.evaluation.students.trials import LabelStore
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import real_data
from raydd.pipeline.work.teacher_labels import Relabelling


def relabel(run: Run, store: LabelStore, progress: Progress) -> None:
    """Label all epochs with as many actors as the cluster holds, and publish them.

    Raises:
        RunError: the teacher fails, or an actor died more often than `cluster.max_failures` allows.
    """
    with actor_pool.actors(Labeller, "an actor that labels images", run, store.epochs, progress) as labellers:
        epochs = [(store, epoch) for epoch in range(store.epochs)]
        for done in labellers.work_off("label", epochs):
            progress.update(Work("labels"), done, store.epochs)
    Relabelling(run, store).finish(NoProgress())


@ray.remote
class Labeller:
    """Labels epochs. Ray restarts it when it dies, and the epoch is labelled anew."""

    def __init__(self, run: Run) -> None:
        """Set up the process."""
        real_data.set_up(run)
        self._run = run
        self._work: dict[LabelStore, Relabelling] = {}

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return f"labels of {self._run.config.name}"

    def label(self, store: LabelStore, epoch: int) -> None:
        """Label one epoch."""
        work = self._work.get(store) or self._work.setdefault(store, Relabelling(self._run, store))
        work.label(epoch)
