"""Probes on Ray Tune: a trial for every question, as for every architecture that is searched among."""

from collections.abc import Sequence

from raydd.cluster import runtime, tune_trials
from raydd.cluster.progress import BoardProgress
from raydd.core.progress import Progress, Work
from raydd.evaluation.probes.probe import Question
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import probes


def answer(run: Run, questions: Sequence[Question], progress: Progress) -> None:
    """Answer these questions, as many at once as the cluster holds, and make what they need before that."""
    for asked, work, task in (
        (probes.unprepared(run, questions), _prepared, Work("preparations", f"of probes of {run.config.name}")),
        (questions, _answered, Work("probes", f"of {run.config.name}")),
    ):
        if not asked:
            continue
        share = runtime.share_resources(run.config.cluster, len(asked))
        names = [str(question.work) for question in asked]
        tune_trials.work_off(run, task, work, asked, names, share, progress)


def _prepared(run: Run, preparation: Question, progress: BoardProgress) -> dict[str, float]:
    probes.prepare(run, preparation, progress)
    return {}


def _answered(run: Run, question: Question, progress: BoardProgress) -> dict[str, float]:
    return dict(probes.answer(run, question, progress).metrics)
