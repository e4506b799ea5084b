"""Students on Ray Tune: one single-process trial each."""

import uuid
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import ray
from ray import tune

from raydd.cluster import runtime, state, trackers
from raydd.cluster.progress import BoardProgress, relayed
from raydd.cluster.waiting import LookoutOfTune, one_share, result
from raydd.evaluation.trials import Trial
from raydd.pipeline import choices, evaluating, jobs
from raydd.pipeline.run import Run
from raydd.progress import Progress


def evaluate(run: Run, trials: Sequence[Trial], progress: Progress) -> None:
    """Train these students, as many packs at once as the cluster holds, first come first served.

    Every trial writes its own records, so nothing of Tune's state is needed to go on after a break.
    """
    share = runtime.share_resources(run.config.cluster, len(trials))
    title = f"students of {run.config.name}"
    choose = ray.remote(_packs).options(name=f"packs of {title}", num_cpus=share["CPU"], num_gpus=share.get("GPU", 0))
    lookout = one_share(run.config.cluster, share, progress)
    packs = result(choose.remote(run, trials), lookout) if "GPU" in share else choices.student_packs(run, trials)
    with relayed(progress) as posted:
        trainable = tune.with_parameters(_students, run=run, packs=packs, progress=posted)
        trainable.__name__ = title
        resources = {"cpu": share["CPU"], "gpu": share.get("GPU", 0)}
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={
                "pack": tune.grid_search(list(range(len(packs)))),
                "students": tune.sample_from(lambda config: [trial.title for trial in packs[config["pack"]]]),
            },
            tune_config=trackers.named(lambda config: f"pack {config['pack']} of {title}", reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"evaluate-{uuid.uuid4().hex[:8]}",
                **state.kept_in(run.work / "ray"),
                failure_config=tune.FailureConfig(max_failures=run.config.cluster.max_failures),
                callbacks=[LookoutOfTune(lookout), *trackers.callbacks(run, run.folder)],
                verbose=0,
            ),
        )
        tuner.fit()


def _packs(run: Run, trials: Sequence[Trial]) -> list[list[Trial]]:
    """How the students are packed, found where they are trained."""
    jobs.set_up(run)
    return choices.student_packs(run, trials)


def _students(config: dict[str, Any], run: Run, packs: list[list[Trial]], progress: BoardProgress) -> dict[str, float]:
    """One trial."""
    jobs.set_up(run)
    records = evaluating.evaluate(run, packs[config["pack"]], progress)
    return {"test_accuracy": fmean(record.test_accuracy or 0.0 for record in records)}
