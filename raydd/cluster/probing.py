"""Probes on Ray Tune: a trial for every question, as for every architecture that is searched among."""

from collections.abc import Sequence

from raydd.cluster import runtime, tuned
from raydd.cluster.progress import BoardProgress
from raydd.evaluation.probing import Question
from raydd.pipeline import probing
from raydd.pipeline.run import Run
from raydd.progress import Progress


def answer(run: Run, questions: Sequence[Question], progress: Progress) -> None:
    """Answer these questions, as many at once as the cluster holds, and make what they need before that."""
    for asked, work, title in (
        (probing.unprepared(run, questions), _prepared, "preparations of probes"),
        (questions, _answered, "probes"),
    ):
        if not asked:
            continue
        share = runtime.share_resources(run.config.cluster, len(asked))
        names = [question.title for question in asked]
        tuned.work_off(run, f"{title} of {run.config.name}", work, asked, names, share, progress)


def _prepared(run: Run, preparation: Question, progress: BoardProgress) -> dict[str, float]:
    probing.prepare(run, preparation, progress)
    return {}


def _answered(run: Run, question: Question, progress: BoardProgress) -> dict[str, float]:
    return dict(probing.answer(run, question, progress).metrics)
