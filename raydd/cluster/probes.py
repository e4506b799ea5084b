"""Probes on Ray Tune: a trial for every question, as for every architecture that is searched among."""

from collections.abc import Sequence

from raydd.cluster import runtime, tune_trials
from raydd.cluster.progress import BoardProgress
from raydd.core.progress import Progress
from raydd.evaluation.probes.probe import Question
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import probes


def answer(run: Run, questions: Sequence[Question], progress: Progress) -> None:
    """Answer these questions, as many at once as the cluster holds, and make what they need before that."""
    for asked, work, title in (
        (probes.unprepared(run, questions), _prepared, "preparations of probes"),
        (questions, _answered, "probes"),
    ):
        if not asked:
            continue
        share = runtime.share_resources(run.config.cluster, len(asked))
        names = [question.title for question in asked]
        tune_trials.work_off(run, f"{title} of {run.config.name}", work, asked, names, share, progress)


def _prepared(run: Run, preparation: Question, progress: BoardProgress) -> dict[str, float]:
    probes.prepare(run, preparation, progress)
    return {}


def _answered(run: Run, question: Question, progress: BoardProgress) -> dict[str, float]:
    return dict(probes.answer(run, question, progress).metrics)
