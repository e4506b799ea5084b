"""Students on Ray Tune: packs of them, one trial each."""

from collections.abc import Sequence
from statistics import fmean

import ray

from raydd.cluster import runtime, tune_trials
from raydd.cluster.progress import BoardProgress
from raydd.cluster.waiting import one_share, result
from raydd.core.progress import Progress, Work
from raydd.evaluation.students.trials import Trial
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import auto, real_data, students


def evaluate(run: Run, trials: Sequence[Trial], progress: Progress) -> None:
    """Train these students, as many packs at once as the cluster holds."""
    share = runtime.share_resources(run.config.cluster, len(trials))
    task = Work("students", f"of {run.config.name}")
    choose = ray.remote(_packs).options(name=f"packs of {task}", num_cpus=share["CPU"], num_gpus=share.get("GPU", 0))
    if "GPU" in share:
        packs = result(choose.remote(run, trials), one_share(run.config.cluster, share, progress))
    else:
        packs = auto.student_packs(run, trials)
    names = [[trial.title for trial in pack] for pack in packs]
    tune_trials.work_off(run, task, _students, packs, names, share, progress)


def _packs(run: Run, trials: Sequence[Trial]) -> list[list[Trial]]:
    """How the students are packed, found where they are trained."""
    real_data.set_up(run)
    return auto.student_packs(run, trials)


def _students(run: Run, pack: list[Trial], progress: BoardProgress) -> dict[str, float]:
    """One trial."""
    records = students.evaluate(run, pack, progress)
    return {"test_accuracy": fmean(record.test_accuracy or 0.0 for record in records)}
