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
    preparations = probing.unprepared(run, questions)
    count = max(len(preparations), len(questions))
    with relayed(progress) as posted, pool.actors(Prober, "an actor that probes", run, count) as probers:
        for asked, work in ((preparations, "prepare"), (questions, "answer")):
            for done in pool.work_off(probers, work, [(question, posted) for question in asked]):
                progress.update(f"probes: {work}", done, len(asked))


@ray.remote
class Prober:
    """Answers questions. Ray restarts it when it dies, and the question is asked again."""

    def __init__(self, run: Run) -> None:
        """Set up the process."""
        jobs.set_up(run)
        self._run = run

    def prepare(self, preparation: Question, progress: BoardProgress) -> None:
        """Make what several answers need, unless it is there."""
        probing.prepare(self._run, preparation, progress)

    def answer(self, question: Question, progress: BoardProgress) -> None:
        """Answer one question, unless it has an answer."""
        probing.answer(self._run, question, progress)
