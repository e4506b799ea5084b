"""Probes on Ray: a pool of actors, each of which answers one question after the other."""

from collections.abc import Sequence

import ray

from raydd.cluster import pool
from raydd.cluster.progress import BoardProgress, relayed
from raydd.evaluation.probing import Question
from raydd.pipeline import jobs, probing
from raydd.pipeline.run import Run
from raydd.progress import Progress


def answer(run: Run, questions: Sequence[Question], progress: Progress) -> None:
    """Answer these questions with as many actors as the cluster holds.

    Raises:
        RunError: an actor died more often than `cluster.max_failures` allows.
    """
    with relayed(progress) as posted:
        for asked, work in ((probing.unprepared(run, questions), "prepare"), (questions, "answer")):
            if not (tasks := [(question, posted) for question in asked]):
                continue
            with pool.actors(Prober, "an actor that probes", run, len(tasks), progress) as probers:
                for done in probers.work_off(work, tasks):
                    progress.update(f"probes: {work}", done, len(tasks))


@ray.remote
class Prober:
    """Answers questions. Ray restarts it when it dies, and the question is asked again."""

    def __init__(self, run: Run) -> None:
        """Set up the process."""
        jobs.set_up(run)
        self._run = run

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return f"probes of {self._run.config.name}"

    def prepare(self, preparation: Question, progress: BoardProgress) -> None:
        """Make what several answers need, unless it is there."""
        probing.prepare(self._run, preparation, progress)

    def answer(self, question: Question, progress: BoardProgress) -> None:
        """Answer one question, unless it has an answer."""
        probing.answer(self._run, question, progress)
