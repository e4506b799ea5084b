"""Students on Ray Tune: one single-process trial each."""

import uuid
from collections.abc import Sequence
from statistics import fmean

import ray
from ray import tune

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.evaluation.trials import Trial
from raydd.pipeline import choices, evaluating, jobs
from raydd.pipeline.run import Run
from raydd.progress import Progress


def evaluate(run: Run, trials: Sequence[Trial], progress: Progress) -> None:
    """Train these students, as many packs at once as the cluster holds, first come first served.

    Every trial writes its own records, so nothing of Tune's state is needed to go on after a break.
    """
    share = runtime.share_resources(run.config.cluster, len(trials))
    choose = ray.remote(_packs).options(num_cpus=share["CPU"], num_gpus=share.get("GPU", 0))
    packs = ray.get(choose.remote(run, trials)) if "GPU" in share else choices.student_packs(run, trials)
    with relayed(progress) as posted:
        trainable = tune.with_parameters(_students, run=run, packs=packs, progress=posted)
        resources = {"cpu": share["CPU"], "gpu": share.get("GPU", 0)}
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"pack": tune.grid_search(list(range(len(packs))))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"evaluate-{uuid.uuid4().hex[:8]}",
                storage_path=(run.work / "ray").uri,
                failure_config=tune.FailureConfig(max_failures=run.config.cluster.max_failures),
                verbose=0,
            ),
        )
        tuner.fit()


def _packs(run: Run, trials: Sequence[Trial]) -> list[list[Trial]]:
    """How the students are packed, found where they are trained."""
    jobs.set_up(run)
    return choices.student_packs(run, trials)


def _students(config: dict[str, int], run: Run, packs: list[list[Trial]], progress: BoardProgress) -> dict[str, float]:
    """One trial."""
    jobs.set_up(run)
    records = evaluating.evaluate(run, packs[config["pack"]], progress)
    return {"test_accuracy": fmean(record.test_accuracy or 0.0 for record in records)}
